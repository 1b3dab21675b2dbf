#include "passes/transforms/JoinParts.h"

#include "passes/rules/Match.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool readsAttribute(const Value* v) {
  std::unordered_set<const Value*> seen;
  std::vector<const Value*> work{v};
  while (!work.empty()) {
    const Value* at = work.back();
    work.pop_back();
    if (!seen.insert(at).second)
      continue;
    if (at->node()->kind() == prim::GetAttr)
      return true;
    for (const Value* in : at->node()->inputs())
      work.push_back(in);
  }
  return false;
}

Value* joinMasked(const std::vector<Part>& parts, const PartAccess& a) {
  Value* whole = parts[0].value;
  for (size_t i = 1; i < parts.size(); ++i)
    whole = a.graph.insert(
        aten::where, {insertMask(a.graph, parts[i].elements, true, a.operand),
                      parts[i].value, whole});
  return whole;
}

/// x[:, :, indices], as the list of indices that aten::index_put_ takes.
Value* indexList(const Elements& e, const PartAccess& a) {
  std::vector<Value*> list;
  for (int64_t i = 0; i < e.dim; ++i)
    list.push_back(a.graph.insertConstant(c10::IValue()));
  list.push_back(a.operand(e.indices));
  return a.graph
      .insertNode(a.graph.createList(
          c10::OptionalType::create(c10::TensorType::get()), list))
      ->output();
}

/// A fresh tensor, into which each part is written.
Value* joinWritten(const std::vector<Part>& parts, const PartAccess& a) {
  Graph& g = a.graph;
  Value* whole = g.insert(Symbol::fromQualString("aten::new_empty"),
                          {parts[0].value, a.sizes()});
  for (const Part& part : parts) {
    const Elements& e = part.elements;
    if (e.kind == Elements::Kind::Index && e.indices) {
      g.insert(aten::index_put_, {whole, indexList(e, a), part.value});
      continue;
    }
    const bool one = e.kind == Elements::Kind::Index;
    Value* place = g.insert(aten::slice,
                            {whole, e.dim, one ? e.places[0] : e.start,
                             one ? e.places[0] + 1 : e.end, one ? 1 : e.step});
    g.insert(aten::copy_, {place, part.value});
  }
  return whole;
}

} // namespace

bool partsCover(const std::vector<Part>& parts) {
  std::vector<Elements> sets;
  for (const Part& part : parts)
    sets.push_back(part.elements);
  return covers(sets);
}

Value* joinParts(const std::vector<Part>& parts, const PartAccess& access) {
  return parts[0].elements.kind == Elements::Kind::Mask
             ? joinMasked(parts, access)
             : joinWritten(parts, access);
}

bool needsCheck(const Elements& e) {
  return e.kind == Elements::Kind::Index ||
         std::any_of(e.factors.begin(), e.factors.end(),
                     [](const Elements::Factor& f) {
                       return readsAttribute(f.tensor);
                     });
}

Value* checkParts(const std::vector<Part>& parts, const PartAccess& a) {
  Graph& g = a.graph;
  std::vector<Elements> sets;
  for (const Part& part : parts)
    sets.push_back(part.elements);
  if (std::none_of(sets.begin(), sets.end(), needsCheck) || !partsCover(parts))
    return nullptr;
  if (auto size = sizeImplied(sets)) {
    Value* equal = g.insert(aten::eq, {a.size(sets[0].dim), *size});
    return g.insert(aten::scalar_tensor, {g.insert(aten::Int, {equal})});
  }
  Value *all = nullptr, *binary = nullptr;
  std::unordered_set<Value*> seen;
  for (const Elements& e : sets) {
    Value* condition = insertMask(g, e, true, a.operand);
    all = all ? g.insert(aten::logical_or, {all, condition}) : condition;
    for (const Elements::Factor& factor : e.factors) {
      if (!seen.insert(factor.tensor).second || !readsAttribute(factor.tensor))
        continue;
      Value* m = a.operand(factor.tensor);
      Value* fine = g.insert(
          aten::all, {g.insert(aten::eq, {g.insert(aten::mul, {m, m}), m})});
      binary = binary ? g.insert(aten::logical_and, {binary, fine}) : fine;
    }
  }
  all = g.insert(aten::all, {all});
  return binary ? g.insert(aten::logical_and, {all, binary}) : all;
}

} // namespace inv::opt
