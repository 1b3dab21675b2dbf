// Multiplying by a constant mask of zeros and ones, choosing by one, and sums
// of what two masks left.
//
//   y = m * x             x where m is 1      = y
//   y = where(b, u, v)    u where b           = y,  v elsewhere = y
//   y = masked_fill(x, b, c)   x elsewhere    = y
//   y = p + q, of which p is 0 where q is not, by the masks that made them
//                         p = y where p's mask is 1, else 0;  q likewise
//
// The first three give a part of their operand (analysis/Elements.h); with a
// part from each of two masks that complete each other, x is known. The last is
// the join of RealNVP's checkerboard: y = m * x + (1 - m) * (x * exp(s) + t).
//
// Exact. A mask is a tensor constant, or follows from buffers alone; its values
// are looked at here, and those of a buffer again by the step in forward (0 or
// 1, complete, disjoint), since a buffer may be set to others. Not matched:
// masks computed from the input, trainable ones (a gradient would move them
// away from 0 and 1), masks without a zero (family "scale" or "product").
#include "passes/rules/Match.h"
#include "passes/rules/Support.h"

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A candidate for the parts of operands: `operands[i]` where `masks[i]` is.
void addParts(const RuleContext& context,
              const std::vector<std::pair<Value*, Elements>>& parts,
              std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Candidate c;
  c.rule = "mask";
  c.cls = RuleClass::Free;
  for (const auto& [operand, elements] : parts) {
    const ValueId x = flow.idOf(operand);
    if (x < 0 || !flow.value(x).isActivation() || !isTensor(flow.value(x)))
      continue;
    c.solved.push_back(x);
    c.elements.push_back(elements);
    addTensorsOf(elements, flow, c.others);
  }
  if (c.solved.empty())
    return;
  c.elementwise = true;
  const size_t count = c.solved.size();
  c.emit = [count](InverseBuilder& b) {
    return std::vector<Value*>(count, b.result(0));
  };
  out.push_back(std::move(c));
}

/// True where the element is outside.
Value* outside(InverseBuilder& b, const Elements& e) {
  return insertMask(b.graph(), e, /*inside=*/false,
                    [&b](Value* v) { return b.operand(v); });
}

/// y = p + q where the two have no element in common.
void joinCandidate(Node* n, const RuleContext& context,
                   std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  if (n->inputs().size() > 2 && constantScalar(n->input(2)) != 1.0)
    return;
  Value* p = n->input(0);
  Value* q = n->input(1);
  const ValueId ip = flow.idOf(p), iq = flow.idOf(q);
  if (ip < 0 || iq < 0 || ip == iq || !flow.value(ip).isActivation() ||
      !flow.value(iq).isActivation())
    return;
  const auto a = supportOf(p, context), b = supportOf(q, context);
  if (!a || !b || !disjoint(*a, *b))
    return;
  Candidate c;
  c.rule = "masked-sum";
  c.cls = RuleClass::Free;
  c.solved = {ip, iq};
  c.needsSizes = true;
  addTensorsOf(*a, flow, c.others);
  addTensorsOf(*b, flow, c.others);
  c.emit = [a = *a, b = *b](InverseBuilder& builder) -> std::vector<Value*> {
    Graph& g = builder.graph();
    Value* y = builder.result(0);
    return {g.insert(aten::masked_fill, {y, outside(builder, a), 0.0}),
            g.insert(aten::masked_fill, {y, outside(builder, b), 0.0})};
  };
  // 0 where the masks overlap after all, or an operand was broadcast.
  c.growth = [a = *a, b = *b, p, q](InverseBuilder& builder) -> Value* {
    Graph& g = builder.graph();
    Value* sizes = g.insert(aten::size, {builder.result(0)});
    Value* apart = g.insert(
        aten::all, {g.insert(aten::logical_or,
                             {outside(builder, a), outside(builder, b)})});
    Value* holds = g.insert(aten::to, {apart, int64_t(at::kFloat)});
    for (Value* operand : {p, q}) {
      Value* same = g.insert(aten::eq, {builder.sizesOf(operand), sizes});
      holds = g.insert(aten::mul, {holds, g.insert(aten::Int, {same})});
    }
    return holds;
  };
  out.push_back(std::move(c));
}

} // namespace

void maskRule(NodeId id, const RuleContext& context,
              std::vector<Candidate>& out) {
  Node* n = context.flow.node(id).node;
  const size_t inputs = n->inputs().size();
  if (n->kind() == aten::add && inputs >= 2)
    return joinCandidate(n, context, out);
  if (n->kind() == aten::mul && inputs == 2) {
    for (size_t i = 0; i < 2; ++i)
      if (auto mask = maskOf(n->input(i), context))
        return addParts(context, {{n->input(1 - i), *mask}}, out);
    return;
  }
  if (n->kind() == aten::masked_fill && inputs == 3) {
    if (auto mask = maskOf(n->input(1), context, true))
      addParts(context, {{n->input(0), *mask}}, out);
    return;
  }
  if (n->kind() != aten::where || inputs != 3)
    return;
  const auto on = maskOf(n->input(0), context);
  const auto off = maskOf(n->input(0), context, true);
  if (on && off)
    addParts(context, {{n->input(1), *on}, {n->input(2), *off}}, out);
}

} // namespace inv::opt
