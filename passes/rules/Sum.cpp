// add, sub, rsub of two activations.
//
//   y = a + alpha * b     a = y - alpha * b     b = (y - a) / alpha
//   y = a - alpha * b     a = y + alpha * b     b = (a - y) / alpha
//   y = b - alpha * a     (rsub)
//
// Both operands are formally solvable; the analysis picks the one that is not
// computed from what the other one's conditioner reads. Rounding: (x + f) - f
// differs from x by at most one rounding of the sum, hence amplification 1.
// Not matched: adding a constant or parameter (family "scale"), x + x.
#include "passes/rules/Match.h"

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The emitted inverse of one operand of a sum.
struct SumInverse {
  Value* other;      ///< the operand that is known
  Value* alphaValue; ///< the node's alpha input, or null (1)
  bool solvesScaled; ///< solves the operand that alpha multiplies
  bool minus;        ///< y = plain - alpha * scaled

  std::vector<Value*> operator()(InverseBuilder& b) const {
    Graph& g = b.graph();
    Value* y = b.result(0);
    Value* known = b.operand(other);
    Value* alpha = alphaValue ? b.operand(alphaValue) : g.insertConstant(1);
    if (!solvesScaled) // plain = y -+ alpha * scaled
      return {g.insert(minus ? aten::add : aten::sub, {y, known},
                       {NamedValue("alpha", alpha)})};
    Value* difference = minus ? g.insert(aten::sub, {known, y})
                              : g.insert(aten::sub, {y, known});
    if (!alphaValue || constantScalar(alphaValue) == 1.0)
      return {difference};
    return {g.insert(aten::div, {difference, alpha})};
  }
};

} // namespace

void sumRule(NodeId id, const RuleContext& context,
             std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  const bool isRsub = n->kind() == aten::rsub;
  if (n->kind() != aten::add && n->kind() != aten::sub && !isRsub)
    return;
  if (n->inputs().size() < 2)
    return;
  // y = plain +- alpha * scaled
  Value* plain = n->input(isRsub ? 1 : 0);
  Value* scaled = n->input(isRsub ? 0 : 1);
  const ValueId p = flow.idOf(plain), s = flow.idOf(scaled);
  if (p < 0 || s < 0 || !isTensor(flow.value(p)) || !isTensor(flow.value(s)))
    return;
  if (!flow.value(p).isActivation() || !flow.value(s).isActivation() || p == s)
    return;
  Value* alpha = n->inputs().size() > 2 ? n->input(2) : nullptr;
  const std::optional<double> alphaNumber =
      alpha ? constantScalar(alpha) : std::optional<double>(1.0);
  const bool minus = n->kind() != aten::add;

  Candidate c;
  c.rule = "sum";
  c.cls = RuleClass::Sum;
  c.solved = {p};
  c.others = {s};
  c.elementwise = true;
  c.emit = SumInverse{scaled, alpha, false, minus};
  const ValueInfo& y = flow.value(flow.idOf(n->output()));
  c.refused = arithmeticProblem(flow.value(p), y);
  out.push_back(c);
  c.solved = {s};
  c.others = {p};
  if (!alphaNumber || *alphaNumber == 0.0) {
    c.refused = Reason::ScaleMaybeZero;
    c.detail = alphaNumber ? "alpha is 0" : nameOf(alpha);
    out.push_back(c);
    return;
  }
  c.amplification = std::max(1.0, 1.0 / std::abs(*alphaNumber));
  c.emit = SumInverse{plain, alpha, true, minus};
  c.refused = arithmeticProblem(flow.value(s), y);
  out.push_back(c);
}

} // namespace inv::opt
