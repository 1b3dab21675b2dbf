// Linear layers whose weight has full column rank.
//
//   y = linear(x, W, b)     y = x Wᵀ + b        W: [out, in], out >= in
//   y = addmm(b, x, M)      y = x M + b         M: [in, out]
//   y = matmul(x, M), mm(x, M)
//   y = matmul(W, x), mm(W, x)                  x: [..., in, columns]
//   y = einsum("bik,jk->bij", x, W)             one index for another
//
// out = in: x = (y - b) M⁻¹ by an LU solve; where the weight is built in the
// graph, and its construction shows triangular or orthogonal factors
// (WeightFactors.h), by triangular solves and transposes. out > in: the
// least-squares solution (y - b) M⁺, M⁺ the pseudo-inverse; with Mᵀ = Q R (thin
// QR) it is the solution of x Rᵀ = (y - b) Q, one triangular solve (Golub & Van
// Loan, Matrix Computations, 5.3.2). In exact arithmetic y - b lies in the
// range, so x is recovered exactly; rounding grows by the condition number of
// M.
//
// The shape, dtype, rank and condition number are measured on the saved
// weights. Refused: out < in, rank deficiency, a condition number above
// --max-condition, half precision, a weight that follows from the input.
// bias + matmul is this rule on the product and family "scale" on the sum.
#include "passes/rules/Match.h"
#include "passes/rules/WeightFactors.h"
#include "passes/rules/WeightSolve.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace inv::opt {

using namespace torch::jit;

namespace {

struct LinearNode {
  Value* x = nullptr;
  Value* weight = nullptr;
  Value* bias = nullptr;   ///< null where there is none
  bool transposed = false; ///< y = x weightᵀ
  /// The dimensions that are summed over in x and new in y, from the end.
  int64_t inDim = -1, outDim = -1;
  bool needsMatrix = false; ///< x with one dimension would mean something else
  bool broadcasts = false;  ///< x may be repeated to the weight's size
};

/// einsum("xs,ws->ys", ...) that puts one index in another's place.
std::optional<LinearNode> matchEinsum(Node* n, const Dataflow& flow) {
  auto equation = toIValue(n->input(0));
  Node* list = n->input(1)->node();
  if (!equation || !equation->isString() ||
      list->kind() != prim::ListConstruct || list->inputs().size() != 2)
    return std::nullopt;
  std::string text;
  for (char c : equation->toStringRef())
    if (c != ' ')
      text += c;
  const size_t arrow = text.find("->"), comma = text.find(',');
  if (arrow == std::string::npos || comma == std::string::npos || comma > arrow)
    return std::nullopt;
  std::string xs = text.substr(0, comma);
  std::string ws = text.substr(comma + 1, arrow - comma - 1);
  std::string ys = text.substr(arrow + 2);
  LinearNode l;
  l.broadcasts = true;
  l.x = list->input(0);
  l.weight = list->input(1);
  const ValueId first = flow.idOf(l.x);
  if (first >= 0 && !flow.value(first).isActivation()) {
    std::swap(l.x, l.weight);
    std::swap(xs, ws);
  }
  // "..." stands for leading dimensions: positions count from the end.
  for (std::string* s : {&xs, &ys})
    if (s->rfind("...", 0) == 0)
      s->replace(0, 3, ".");
  if (ws.size() != 2 || ws[0] == ws[1] || xs.size() != ys.size())
    return std::nullopt;
  const auto from = [&](char c) { return xs.find(c); };
  const bool outFirst = from(ws[0]) == std::string::npos;
  const char in = ws[outFirst ? 1 : 0], out = ws[outFirst ? 0 : 1];
  const size_t inAt = from(in), outAt = ys.find(out);
  if (inAt == std::string::npos || outAt == std::string::npos ||
      from(out) != std::string::npos || ys.find(in) != std::string::npos)
    return std::nullopt;
  l.transposed = outFirst;
  l.inDim = int64_t(inAt) - int64_t(xs.size());
  l.outDim = int64_t(outAt) - int64_t(ys.size());
  xs.erase(inAt, 1);
  ys.erase(outAt, 1);
  std::string sorted = xs;
  std::sort(sorted.begin(), sorted.end());
  const bool repeats =
      std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  return xs == ys && !repeats ? std::optional(l) : std::nullopt;
}

std::optional<LinearNode> matchLinear(Node* n, const Dataflow& flow) {
  LinearNode l;
  if (n->kind() == aten::linear) {
    l.x = n->input(0);
    l.weight = n->input(1);
    l.bias = isNone(n->input(2)) ? nullptr : n->input(2);
    l.transposed = true;
    return l;
  }
  if (n->kind() == aten::addmm && constantScalar(n->input(3)) == 1.0 &&
      constantScalar(n->input(4)) == 1.0) {
    l.x = n->input(1);
    l.weight = n->input(2);
    l.bias = n->input(0);
    return l;
  }
  if (n->kind() == aten::matmul || n->kind() == aten::mm) {
    l.x = n->input(0);
    l.weight = n->input(1);
    const ValueId first = flow.idOf(l.x);
    if (first < 0 || flow.value(first).isActivation())
      return l;
    std::swap(l.x, l.weight);
    l.transposed = true;
    l.inDim = l.outDim = -2;
    l.needsMatrix = n->kind() == aten::matmul;
    return l;
  }
  static const Symbol einsum = Symbol::fromQualString("aten::einsum");
  return n->kind() == einsum ? matchEinsum(n, flow) : std::nullopt;
}

Value* moved(Graph& g, Value* v, int64_t from, int64_t to) {
  return from == to ? v : g.insert(aten::movedim, {v, from, to});
}

/// The condition number, or 0 where the call is not what it was taken for.
Value* growthOf(InverseBuilder& b, const LinearNode& l,
                const std::vector<MatrixFactor>& factors, double condition) {
  Graph& g = b.graph();
  Value* holds = g.insert(aten::scalar_tensor, {condition});
  if (l.needsMatrix) {
    Value* dims = g.insert(aten::dim, {b.result(0)});
    Value* enough = g.insert(aten::Int, {g.insert(aten::ge, {dims, 2})});
    holds = g.insert(aten::mul, {holds, enough});
  }
  if (l.broadcasts) {
    Value* weight = b.operand(l.weight);
    Value* in = g.insert(aten::size, {weight, l.transposed ? 1 : 0});
    Value* same =
        g.insert(aten::Int, {g.insert(aten::eq, {b.sizeOf(l.x, l.inDim), in})});
    holds = g.insert(aten::mul, {holds, same});
  }
  Value* check =
      checkFactors(g, factors, [&b](Value* v) { return b.operand(v); });
  return check ? g.insert(aten::mul, {holds, check}) : holds;
}

} // namespace

void linearRule(NodeId id, const RuleContext& context,
                std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  auto l = matchLinear(n, flow);
  if (!l)
    return;
  const ValueId x = flow.idOf(l->x), w = flow.idOf(l->weight);
  if (x < 0 || w < 0 || !flow.value(x).isActivation())
    return;
  Candidate c;
  c.rule = "linear";
  c.cls = RuleClass::Solve;
  c.solved = {x};
  const auto refuse = [&](Reason reason, std::string detail) {
    c.refused = reason;
    c.detail = std::move(detail);
    out.push_back(std::move(c));
  };
  if (flow.value(w).isActivation()) {
    if (n->kind() != aten::linear && n->kind() != aten::addmm)
      return; // a product of two activations is no layer
    return refuse(Reason::WeightUnknown, nameOf(l->weight));
  }
  const std::optional<at::Tensor> saved = savedValue(l->weight, context);
  if (!saved)
    return refuse(Reason::WeightUnknown, nameOf(l->weight));
  if (saved->dim() != 2)
    return refuse(Reason::WeightShape,
                  fmt::format("the weight has {} dimensions", saved->dim()));
  const WeightFacts facts =
      lookAtMatrix(l->transposed ? *saved : saved->t(), context);
  c.refused = facts.refused;
  c.detail = facts.detail;
  c.amplification = std::max(1.0, facts.condition);
  const bool square = facts.in == facts.out;
  c.resizes = !square;
  std::vector<MatrixFactor> factors;
  if (square && !facts.refused)
    factors = factorsOf(l->weight, !l->transposed, context);
  if (factors.empty())
    c.others = {w};
  if (l->broadcasts && !factors.empty())
    c.others = {w};
  c.needsSizes = l->broadcasts;
  bool checks = l->needsMatrix || l->broadcasts;
  for (const MatrixFactor& f : factors) {
    c.others.push_back(flow.idOf(f.value));
    for (Value* v : f.toCheck)
      c.others.push_back(flow.idOf(v));
    checks |= !f.toCheck.empty();
  }
  if (l->bias)
    c.others.push_back(flow.idOf(l->bias));
  c.emit = [l = *l, square, factors](InverseBuilder& b) -> std::vector<Value*> {
    Graph& g = b.graph();
    Value* y = b.result(0);
    if (l.bias)
      y = g.insert(aten::sub, {y, b.operand(l.bias)});
    y = moved(g, y, l.outDim, -1);
    const auto operand = [&b](Value* v) { return b.operand(v); };
    Value* solved = factors.empty() ? solveRows(g, y, b.operand(l.weight),
                                                l.transposed, square)
                                    : solveFactors(g, y, factors, operand);
    return {moved(g, solved, -1, l.inDim)};
  };
  if (checks)
    c.growth = [l = *l, factors,
                condition = c.amplification](InverseBuilder& b) {
      return growthOf(b, l, factors, condition);
    };
  out.push_back(std::move(c));
}

} // namespace inv::opt
