// Operators that only move values: the same family undoes them.
//
//   permute(x, p)        => permute(y, inverse of p)
//   transpose(x, a, b)   => transpose(y, a, b);  t likewise
//   view, reshape, flatten, unflatten => reshape(y, sizes of x)
//   squeeze, unsqueeze   => reshape(y, sizes of x)
//   contiguous, clone    => y
//   type_as(x, t)        => y    where nobody else reads x; it stands behind an
//                                in-place sum and returns x but where dtypes
//                                differ, and then the step keeps its input
//   flip(x, dims)        => flip(y, dims);  roll by the negative shifts
//   pixel_shuffle(x, r)  <=> pixel_unshuffle(x, r)
//
// Exact. Sizes of x are recorded in forward and handed to the inverse. Not
// matched: permutations whose dimensions are not constants.
#include "passes/rules/Match.h"

#include <numeric>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Emit = std::function<std::vector<Value*>(InverseBuilder&)>;

Emit permuteBack(std::vector<int64_t> dims) {
  std::vector<int64_t> inverse(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    const int64_t d = dims[i] < 0 ? dims[i] + int64_t(dims.size()) : dims[i];
    if (d < 0 || d >= int64_t(dims.size()))
      return {};
    inverse[size_t(d)] = int64_t(i);
  }
  return [inverse](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::permute, {b.result(0), inverse})};
  };
}

Emit reshapeBack(Value* x) {
  return [x](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::reshape, {b.result(0), b.sizesOf(x)})};
  };
}

Emit rollBack(Node* n) {
  auto shifts = constantInts(n->input(1));
  auto dims = constantInts(n->input(2));
  if (!shifts || !dims)
    return {};
  for (int64_t& s : *shifts)
    s = -s;
  return [shifts = *shifts,
          dims = *dims](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::roll, {b.result(0), shifts, dims})};
  };
}

/// The operator applied again with the same arguments behind the first.
Emit sameAgain(Node* n, Symbol kind) {
  std::vector<Value*> rest(n->inputs().begin() + 1, n->inputs().end());
  for (Value* v : rest)
    if (!toIValue(v) && !constantInts(v))
      return {};
  return [kind, rest](InverseBuilder& b) -> std::vector<Value*> {
    std::vector<NamedValue> arguments{b.result(0)};
    for (Value* v : rest)
      arguments.emplace_back(toIValue(v) ? *toIValue(v)
                                         : IValue(*constantInts(v)));
    return {b.graph().insert(kind, arguments)};
  };
}

Emit identity() {
  return [](InverseBuilder& b) -> std::vector<Value*> { return {b.result(0)}; };
}

const std::unordered_set<Symbol>& reshapes() {
  static const std::unordered_set<Symbol> kinds = {
      aten::view,    aten::reshape,   aten::flatten, aten::unflatten,
      aten::squeeze, aten::unsqueeze, aten::view_as, aten::reshape_as};
  return kinds;
}

Emit inverseOf(Node* n) {
  static const Symbol shuffle = Symbol::fromQualString("aten::pixel_shuffle");
  static const Symbol unshuffle =
      Symbol::fromQualString("aten::pixel_unshuffle");
  if (n->kind() == aten::permute) {
    auto dims = constantInts(n->input(1));
    return dims ? permuteBack(*dims) : Emit{};
  }
  if (n->kind() == aten::transpose || n->kind() == aten::t ||
      n->kind() == aten::flip)
    return sameAgain(n, n->kind());
  if (reshapes().count(n->kind()))
    return reshapeBack(n->input(0));
  if (n->kind() == aten::contiguous || n->kind() == aten::clone)
    return identity();
  if (n->kind() == aten::type_as && n->input(0)->uses().size() == 1)
    return identity();
  if (n->kind() == aten::roll)
    return rollBack(n);
  if (n->kind() == shuffle)
    return sameAgain(n, unshuffle);
  if (n->kind() == unshuffle)
    return sameAgain(n, shuffle);
  return {};
}

} // namespace

void layoutRule(NodeId id, const RuleContext& context,
                std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (!n->kind().is_aten() || n->inputs().empty() || n->outputs().size() != 1)
    return;
  const ValueId x = flow.idOf(n->input(0));
  if (x < 0 || !flow.value(x).isActivation() || !isTensor(flow.value(x)))
    return;
  Emit emit = inverseOf(n);
  if (!emit)
    return;
  Candidate c;
  c.rule = "layout";
  c.cls = RuleClass::Free;
  c.solved = {x};
  c.needsSizes = reshapes().count(n->kind()) != 0;
  c.emit = std::move(emit);
  out.push_back(std::move(c));
}

} // namespace inv::opt
