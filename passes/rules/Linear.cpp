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
#include "passes/support/GraphRunner.h"

#include <ATen/ops/linalg_svdvals.h>

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

struct WeightFacts {
  int64_t in = 0, out = 0;
  double condition = 0.0;
  std::optional<Reason> refused;
  std::string detail;
};

WeightFacts lookAtWeight(const LinearNode& l, const RuleContext& context) {
  WeightFacts facts;
  auto refuse = [&](Reason reason, std::string detail) {
    facts.refused = reason;
    facts.detail = std::move(detail);
    return facts;
  };
  std::optional<c10::IValue> value;
  if (context.self.isObject())
    value = evaluateStatic(l.weight, context.self);
  if (!value || !value->isTensor() || !value->toTensor().defined())
    return refuse(Reason::WeightUnknown, nameOf(l.weight));
  const at::Tensor w = value->toTensor();
  if (w.dim() != 2)
    return refuse(Reason::WeightShape,
                  fmt::format("the weight has {} dimensions", w.dim()));
  facts.in = w.size(l.transposed ? 1 : 0);
  facts.out = w.size(l.transposed ? 0 : 1);
  if (w.scalar_type() != at::kFloat && w.scalar_type() != at::kDouble)
    return refuse(Reason::WeightDtype, c10::toString(w.scalar_type()));
  if (facts.out < facts.in)
    return refuse(Reason::WeightShape,
                  fmt::format("{} inputs, {} outputs", facts.in, facts.out));
  if (w.numel() == 0)
    return facts;
  const at::Tensor s = at::linalg_svdvals(w.to(at::kDouble).cpu());
  const double largest = s[0].item<double>();
  const double smallest = s[-1].item<double>();
  const double epsilon = w.scalar_type() == at::kFloat ? 1.19e-7 : 2.2e-16;
  if (!(smallest > largest * epsilon * double(facts.out)))
    return refuse(Reason::WeightRank,
                  fmt::format("smallest singular value {:.3g}, largest {:.3g}",
                              smallest, largest));
  facts.condition = largest / smallest;
  if (facts.condition > context.options.maxCondition)
    return refuse(Reason::WeightCondition,
                  fmt::format("{:.3g} > {:.3g}", facts.condition,
                              context.options.maxCondition));
  return facts;
}

std::vector<Value*> emitSolve(InverseBuilder& b, const LinearNode& l,
                              bool square) {
  Graph& g = b.graph();
  Value* rhs = b.result(0);
  if (l.bias)
    rhs = g.insert(aten::sub, {rhs, b.operand(l.bias)});
  Value* w = b.operand(l.weight);
  // All leading dimensions are one batch.
  Value* sizes = g.insert(aten::size, {rhs});
  Value* lastDim = g.insert(aten::size, {rhs, -1});
  Value* minusOne = g.insertConstant(-1);
  Value* flat =
      g.insertNode(g.createList(c10::IntType::get(), {minusOne, lastDim}))
          ->output();
  rhs = g.insert(aten::reshape, {rhs, flat});
  const Symbol solve = Symbol::fromQualString("aten::linalg_solve");
  const Symbol triangular =
      Symbol::fromQualString("aten::linalg_solve_triangular");
  const Symbol qr = Symbol::fromQualString("aten::linalg_qr");
  Value* x = nullptr;
  if (square) {
    Value* m = l.transposed ? g.insert(aten::t, {w}) : w;
    x = g.insert(solve, {m, rhs}, {NamedValue("left", false)});
  } else {
    Value* tall = l.transposed ? w : g.insert(aten::t, {w});
    // The operator has two results, which insert() makes one named tuple of.
    Value* factors = g.insert(qr, {tall}, {});
    Value* q = factors->node()->input(0);
    Value* r = factors->node()->input(1);
    x = g.insert(triangular,
                 {g.insert(aten::t, {r}), g.insert(aten::matmul, {rhs, q})},
                 {NamedValue("upper", false), NamedValue("left", false)});
  }
  Value* in = g.insert(aten::size, {w, l.transposed ? 1 : 0});
  Value* inList =
      g.insertNode(g.createList(c10::IntType::get(), {in}))->output();
  Value* leading = g.insert(aten::slice, {sizes, 0, -1, 1});
  return {g.insert(aten::reshape, {x, g.insert(aten::add, {leading, inList})})};
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
  const WeightFacts facts = lookAtWeight(*l, context);
  c.refused = facts.refused;
  c.detail = facts.detail;
  c.amplification = std::max(1.0, facts.condition);
  c.others = {w};
  if (l->bias)
    c.others.push_back(flow.idOf(l->bias));
  c.emit = [l = *l, square = facts.in == facts.out](InverseBuilder& b) {
    return emitSolve(b, l, square);
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
