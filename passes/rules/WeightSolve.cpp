#include "passes/rules/WeightSolve.h"

#include "passes/support/GraphRunner.h"

#include <ATen/ops/div.h>
#include <ATen/ops/linalg_svdvals.h>
#include <torch/csrc/jit/ir/ir.h>

#include <fmt/format.h>

namespace inv::opt {

using namespace torch::jit;

std::optional<at::Tensor> savedValue(Value* weight,
                                     const RuleContext& context) {
  std::optional<c10::IValue> value;
  if (context.self.isObject())
    value = evaluateStatic(weight, context.self);
  if (!value || !value->isTensor() || !value->toTensor().defined())
    return std::nullopt;
  return value->toTensor();
}

WeightFacts lookAtMatrix(const at::Tensor& w, const RuleContext& context) {
  WeightFacts facts;
  auto refuse = [&](Reason reason, std::string detail) {
    facts.refused = reason;
    facts.detail = std::move(detail);
    return facts;
  };
  facts.in = w.size(-1);
  facts.out = w.size(-2);
  if (w.scalar_type() != at::kFloat && w.scalar_type() != at::kDouble)
    return refuse(Reason::WeightDtype, c10::toString(w.scalar_type()));
  if (facts.out < facts.in)
    return refuse(Reason::WeightShape,
                  fmt::format("{} inputs, {} outputs", facts.in, facts.out));
  if (w.numel() == 0)
    return facts;
  const at::Tensor all = at::linalg_svdvals(w.detach().to(at::kDouble).cpu());
  const at::Tensor largests = all.select(-1, 0).reshape(-1);
  const at::Tensor smallests = all.select(-1, -1).reshape(-1);
  const int64_t worst = at::div(smallests, largests).argmin().item<int64_t>();
  const double largest = largests.select(0, worst).item<double>();
  const double smallest = smallests.select(0, worst).item<double>();
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

namespace {

/// In float64: the solution is then off by little more than the rounding of y
/// and its own, however many roundings the solve takes.
Value* exact(Graph& g, Value* v) {
  return g.insert(aten::to, {v, int64_t(at::kDouble)});
}

Value* swapLast(Graph& g, Value* v) {
  return g.insert(aten::transpose, {v, -2, -1});
}

/// x of rows = x mᵀ, for a matrix m or a batch of them, all in float64.
/// `transposed` as for solveRows.
Value* solve(Graph& g, Value* rows, Value* m, bool transposed, bool square) {
  static const Symbol lu = Symbol::fromQualString("aten::linalg_solve");
  static const Symbol triangular =
      Symbol::fromQualString("aten::linalg_solve_triangular");
  static const Symbol qr = Symbol::fromQualString("aten::linalg_qr");
  if (square)
    return g.insert(lu, {transposed ? swapLast(g, m) : m, rows},
                    {NamedValue("left", false)});
  // The operator has two results, which insert() makes one named tuple of.
  Value* factors = g.insert(qr, {transposed ? m : swapLast(g, m)}, {});
  Value* q = factors->node()->input(0);
  Value* r = factors->node()->input(1);
  return g.insert(triangular,
                  {swapLast(g, r), g.insert(aten::matmul, {rows, q})},
                  {NamedValue("upper", false), NamedValue("left", false)});
}

Value* intList(Graph& g, at::ArrayRef<Value*> numbers) {
  return g.insertNode(g.createList(c10::IntType::get(), numbers))->output();
}

/// `rows` as one tensor of the leading dimensions of `like`, in its dtype.
Value* withLeadingOf(Graph& g, Value* rows, Value* like, Value* last) {
  Value* sizes = g.insert(aten::size, {like});
  Value* leading = g.insert(aten::slice, {sizes, 0, -1, 1});
  rows = g.insert(aten::type_as, {rows, like});
  return g.insert(aten::reshape,
                  {rows, g.insert(aten::add, {leading, intList(g, {last})})});
}

} // namespace

Value* solveRows(Graph& g, Value* y, Value* matrix, bool transposed,
                 bool square) {
  // All leading dimensions are one batch.
  Value* minusOne = g.insertConstant(-1);
  Value* flat = intList(g, {minusOne, g.insert(aten::size, {y, -1})});
  Value* rows = exact(g, g.insert(aten::reshape, {y, flat}));
  Value* x = solve(g, rows, exact(g, matrix), transposed, square);
  return withLeadingOf(g, x, y,
                       g.insert(aten::size, {matrix, transposed ? 1 : 0}));
}

Value* solveGroups(Graph& g, Value* y, Value* matrices, int64_t groups,
                   bool square) {
  if (groups == 1)
    return solveRows(g, y, g.insert(aten::select, {matrices, 0, 0}),
                     /*transposed=*/true, square);
  Value* minusOne = g.insertConstant(-1);
  Value* flat = intList(g, {minusOne, g.insertConstant(groups),
                            g.insert(aten::size, {matrices, 1})});
  Value* rows = exact(g, g.insert(aten::reshape, {y, flat}));
  Value* x = solve(g, g.insert(aten::transpose, {rows, 0, 1}),
                   exact(g, matrices), /*transposed=*/true, square);
  Value* all =
      g.insert(aten::mul, {g.insert(aten::size, {matrices, 2}), groups});
  return withLeadingOf(g, g.insert(aten::transpose, {x, 0, 1}), y, all);
}

} // namespace inv::opt
