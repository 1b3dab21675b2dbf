#include "passes/transforms/JoinParts.h"

#include "passes/rules/Match.h"
#include "passes/support/GraphUtil.h"

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
Value* indexList(const Elements::Term& t, const PartAccess& a) {
  std::vector<Value*> list;
  for (int64_t i = 0; i < t.dim; ++i)
    list.push_back(a.graph.insertConstant(c10::IValue()));
  list.push_back(a.operand(t.indices));
  return a.graph
      .insertNode(a.graph.createList(
          c10::OptionalType::create(c10::TensorType::get()), list))
      ->output();
}

/// The slice of `tensor` that the term names. REQUIRES: no tensor of indices.
Value* sliceOf(Value* tensor, const Elements::Term& t, const PartAccess& a) {
  const bool one = t.kind == Elements::Kind::Index;
  return a.graph.insert(aten::slice,
                        {tensor, t.dim, one ? t.places[0] : t.start,
                         one ? t.places[0] + 1 : t.end, one ? 1 : t.step});
}

/// Writes the term's elements (inverted: the others), which `value` holds alone
/// if `compact`.
void write(Value* whole, const Elements::Term& t, Value* value, bool compact,
           const PartAccess& a) {
  Graph& g = a.graph;
  if (t.indices) {
    Value* list = indexList(t, a);
    if (!compact)
      value = g.insert(aten::index, {value, list});
    g.insert(aten::index_put_, {whole, list, value});
    return;
  }
  if (!compact)
    value = sliceOf(value, t, a);
  g.insert(aten::copy_, {sliceOf(whole, t, a), value});
}

/// A fresh tensor, into which each part is written.
Value* joinWritten(const std::vector<Part>& parts, const PartAccess& a) {
  Graph& g = a.graph;
  const Part* rest = nullptr; // all places but these
  for (const Part& part : parts)
    if (part.elements.terms[0].inverted && !rest)
      rest = &part;
  Value* whole = rest ? g.insert(aten::clone, {rest->value})
                      : g.insert(Symbol::fromQualString("aten::new_empty"),
                                 {parts[0].value, a.sizes()});
  // Of a second such part what the first has not.
  for (const Part& part : parts)
    if (&part != rest && part.elements.terms[0].inverted)
      write(whole, rest->elements.terms[0], part.value, false, a);
  for (const Part& part : parts)
    for (const Elements::Term& t : part.elements.terms)
      if (!t.inverted)
        write(whole, t, part.value, part.elements.compact, a);
  return whole;
}

/// A bool tensor of one dimension, true at the places that the terms name.
Value* placesNamed(const std::vector<const Elements::Term*>& terms, Value* size,
                   const PartAccess& a) {
  static const Symbol fill = Symbol::fromQualString("aten::index_fill_");
  Graph& g = a.graph;
  Value* sizes =
      g.insertNode(g.createList(c10::IntType::get(), {size}))->output();
  Value* all = nullptr;
  for (const Elements::Term* t : terms) {
    const auto tensor = [&](bool value) {
      return g.insert(aten::full, {sizes, value},
                      {NamedValue("dtype", int64_t(at::kBool))});
    };
    Value* named = tensor(t->inverted);
    Elements::Term along = *t;
    along.dim = 0;
    if (t->indices)
      g.insert(fill, {named, 0, a.operand(t->indices), !t->inverted});
    else
      g.insert(Symbol::fromQualString("aten::fill_"),
               {sliceOf(named, along, a), int64_t(!t->inverted)});
    all = all ? g.insert(aten::logical_or, {all, named}) : named;
  }
  return all;
}

std::vector<Elements> elementsOf(const std::vector<Part>& parts) {
  std::vector<Elements> sets;
  sets.reserve(parts.size());
  for (const Part& part : parts)
    sets.push_back(part.elements);
  return sets;
}

} // namespace

bool partsCover(const std::vector<Part>& parts) {
  return covers(elementsOf(parts));
}

Value* joinParts(const std::vector<Part>& parts, const PartAccess& access) {
  if (parts.size() == 1 && !parts[0].elements.compact)
    return parts[0].value;
  return parts[0].elements.isMasked() ? joinMasked(parts, access)
                                      : joinWritten(parts, access);
}

bool needsCheck(const Elements& e) {
  return std::any_of(
      e.terms.begin(), e.terms.end(), [](const Elements::Term& t) {
        return t.kind == Elements::Kind::Index ||
               (t.kind == Elements::Kind::Slice && t.end != kOpenEnd) ||
               std::any_of(t.factors.begin(), t.factors.end(),
                           [](const Elements::Factor& f) {
                             return readsAttribute(f.tensor);
                           });
      });
}

namespace {

Value* checkPlaces(const std::vector<Elements>& sets, const PartAccess& a) {
  Graph& g = a.graph;
  std::vector<const Elements::Term*> terms;
  bool changeable = false;
  for (const Elements& e : sets)
    for (const Elements::Term& t : e.terms) {
      terms.push_back(&t);
      changeable |= t.indices && readsAttribute(t.indices);
    }
  Value* holds = nullptr;
  if (auto size = sizeImplied(sets)) {
    Value* equal = g.insert(aten::eq, {a.size(terms[0]->dim), *size});
    holds = g.insert(aten::scalar_tensor, {g.insert(aten::Int, {equal})});
  }
  if (!changeable)
    return holds;
  Value* all =
      g.insert(aten::all, {placesNamed(terms, a.size(terms[0]->dim), a)});
  return holds ? g.insert(aten::mul, {holds, all}) : all;
}

Value* checkMasks(const std::vector<Elements>& sets, const PartAccess& a) {
  Graph& g = a.graph;
  Value *all = nullptr, *binary = nullptr;
  std::unordered_set<Value*> seen;
  for (const Elements& e : sets) {
    Value* condition = insertMask(g, e, true, a.operand);
    all = all ? g.insert(aten::logical_or, {all, condition}) : condition;
    for (const Elements::Term& t : e.terms)
      for (const Elements::Factor& factor : t.factors) {
        if (!seen.insert(factor.tensor).second ||
            !readsAttribute(factor.tensor))
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

} // namespace

Value* checkParts(const std::vector<Part>& parts, const PartAccess& a) {
  const std::vector<Elements> sets = elementsOf(parts);
  if (std::none_of(sets.begin(), sets.end(), needsCheck) || !partsCover(parts))
    return nullptr;
  return sets[0].isMasked() ? checkMasks(sets, a) : checkPlaces(sets, a);
}

} // namespace inv::opt
