// Linear layers whose weight has full column rank.
//
//   y = linear(x, W, b)     y = x Wᵀ + b        W: [out, in], out >= in
//   y = addmm(b, x, M)      y = x M + b         M: [in, out]
//   y = matmul(x, M), mm(x, M)
//
// out = in: x = (y - b) M⁻¹ by an LU solve. out > in: the least-squares
// solution (y - b) M⁺, M⁺ the pseudo-inverse; with Mᵀ = Q R (thin QR) it is the
// solution of x Rᵀ = (y - b) Q, one triangular solve (Golub & Van Loan, Matrix
// Computations, 5.3.2). In exact arithmetic y - b lies in the range, so x is
// recovered exactly; rounding grows by the condition number of M.
//
// The shape, dtype, rank and condition number are measured on the saved
// weights. Refused: out < in, rank deficiency, a condition number above
// --max-condition, half precision, a weight that is not a parameter.
// bias + matmul is this rule on the product and family "scale" on the sum.
#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

#include <fmt/format.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

struct LinearNode {
  Value* x = nullptr;
  Value* weight = nullptr;
  Value* bias = nullptr;   ///< null where there is none
  bool transposed = false; ///< y = x weightᵀ
};

std::optional<LinearNode> matchLinear(Node* n) {
  if (n->kind() == aten::linear)
    return LinearNode{n->input(0), n->input(1),
                      isNone(n->input(2)) ? nullptr : n->input(2), true};
  if (n->kind() == aten::addmm && constantScalar(n->input(3)) == 1.0 &&
      constantScalar(n->input(4)) == 1.0)
    return LinearNode{n->input(1), n->input(2), n->input(0), false};
  if (n->kind() == aten::matmul || n->kind() == aten::mm)
    return LinearNode{n->input(0), n->input(1), nullptr, false};
  return std::nullopt;
}

} // namespace

void linearRule(NodeId id, const RuleContext& context,
                std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  auto l = matchLinear(n);
  if (!l)
    return;
  const ValueId x = flow.idOf(l->x), w = flow.idOf(l->weight);
  if (x < 0 || w < 0 || !flow.value(x).isActivation())
    return;
  Candidate c;
  c.rule = "linear";
  c.cls = RuleClass::Solve;
  c.solved = {x};
  if (flow.value(w).isActivation()) {
    if (n->kind() != aten::linear && n->kind() != aten::addmm)
      return; // a product of two activations is no layer
    c.refused = Reason::WeightUnknown;
    c.detail = nameOf(l->weight);
    out.push_back(std::move(c));
    return;
  }
  const std::optional<at::Tensor> saved = savedValue(l->weight, context);
  if (!saved || saved->dim() != 2) {
    c.refused = saved ? Reason::WeightShape : Reason::WeightUnknown;
    c.detail = saved ? fmt::format("the weight has {} dimensions", saved->dim())
                     : nameOf(l->weight);
    out.push_back(std::move(c));
    return;
  }
  const WeightFacts facts =
      lookAtMatrix(l->transposed ? *saved : saved->t(), context);
  c.refused = facts.refused;
  c.detail = facts.detail;
  c.amplification = std::max(1.0, facts.condition);
  c.others = {w};
  if (l->bias)
    c.others.push_back(flow.idOf(l->bias));
  c.emit = [l = *l, square = facts.in == facts.out](
               InverseBuilder& b) -> std::vector<Value*> {
    Graph& g = b.graph();
    Value* y = b.result(0);
    if (l.bias)
      y = g.insert(aten::sub, {y, b.operand(l.bias)});
    return {solveRows(g, y, b.operand(l.weight), l.transposed, square)};
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
