// Products and quotients with a tensor: the scale of an affine coupling.
//
//   y = x * s    x = y / s         y = x / s    x = y * s
//
// s is another activation (exp of a network's output) or follows from
// parameters (the exp of a learnt logarithm). It must be shown not to be zero,
// by interval arithmetic over the operators that make it (analysis/Range.h):
// exp, sigmoid, softplus, bounds by tanh, atan or clamp, sums and products of
// such. How much an error grows, max 1/|s| (max |s| for a quotient), is
// measured by the step in forward, since exp and sigmoid come as close to zero
// as they like. Refused: a scale of which nothing is known, or that reaches
// zero (relu).
#include "passes/analysis/Range.h"
#include "passes/rules/Match.h"

#include <cmath>

namespace inv::opt {

using namespace torch::jit;

namespace {

Candidate undo(const Dataflow& flow, Node* n, Value* x, Value* s) {
  Candidate c;
  c.rule = "product";
  c.cls = RuleClass::Product;
  c.solved = {flow.idOf(x)};
  c.others = {flow.idOf(s)};
  c.elementwise = true;
  const bool multiplies = n->kind() == aten::mul;
  const Range range = rangeOf(s);
  if (!range.excludesZero()) {
    c.refused = Reason::ScaleMaybeZero;
    c.detail = nameOf(s);
    return c;
  }
  c.refused = arithmeticProblem(flow.value(c.solved[0]),
                                flow.value(flow.idOf(n->output())));
  c.amplification =
      std::max(1.0, multiplies ? 1 / range.smallest() : range.largest());
  c.emit = [s, multiplies](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(multiplies ? aten::div : aten::mul,
                             {b.result(0), b.operand(s)})};
  };
  if (c.amplification > 1.0)
    c.growth = [s, multiplies](InverseBuilder& b) -> Value* {
      Graph& g = b.graph();
      Value* size = g.insert(aten::abs, {b.operand(s)});
      return multiplies
                 ? g.insert(aten::reciprocal, {g.insert(aten::min, {size})})
                 : g.insert(aten::max, {size});
    };
  return c;
}

} // namespace

void productRule(NodeId id, const RuleContext& context,
                 std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  // div with a rounding mode is another operator.
  if ((n->kind() != aten::mul && n->kind() != aten::div) ||
      n->inputs().size() != 2)
    return;
  Value* a = n->input(0);
  Value* b = n->input(1);
  const ValueId ia = flow.idOf(a), ib = flow.idOf(b);
  if (ia < 0 || ib < 0 || ia == ib || !isTensor(flow.value(ia)) ||
      !isTensor(flow.value(ib)) || constantScalar(a) || constantScalar(b))
    return;
  std::vector<Candidate> ways;
  if (flow.value(ia).isActivation())
    ways.push_back(undo(flow, n, a, b));
  if (flow.value(ib).isActivation() && n->kind() == aten::mul)
    ways.push_back(undo(flow, n, b, a));
  // One refusal is enough where neither operand is known to be non-zero.
  std::stable_partition(ways.begin(), ways.end(),
                        [](const Candidate& c) { return !c.refused; });
  for (Candidate& c : ways)
    if (!c.refused || &c == &ways.front())
      out.push_back(std::move(c));
}

} // namespace inv::opt
