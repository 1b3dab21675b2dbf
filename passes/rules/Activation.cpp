// Monotone activations.
//
//   y = leaky_relu(x, s), s > 0     x = leaky_relu(y, 1 / s)
//
// Amplification 1/s where s < 1. Not matched: a slope that is not a positive
// constant; relu (its negative half is lost).
#include "passes/rules/Match.h"

#include <cmath>

namespace inv::opt {

using namespace torch::jit;

void activationRule(NodeId id, const RuleContext& context,
                    std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (n->kind() != aten::leaky_relu)
    return;
  const ValueId x = flow.idOf(n->input(0));
  if (x < 0 || !flow.value(x).isActivation())
    return;
  const std::optional<double> slope = constantScalar(n->input(1));
  Candidate c;
  c.rule = "leaky_relu";
  c.cls = RuleClass::Pointwise;
  c.solved = {x};
  if (!slope || !(*slope > 0.0) || !std::isfinite(*slope)) {
    c.refused = Reason::NotInvertible;
    c.detail = "the slope is not a positive constant";
    out.push_back(std::move(c));
    return;
  }
  c.amplification = std::max(1.0, 1.0 / *slope);
  c.emit = [s = *slope](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::leaky_relu, {b.result(0), 1.0 / s})};
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
