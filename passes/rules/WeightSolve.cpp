#include "passes/rules/WeightSolve.h"

#include "passes/support/GraphRunner.h"

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
  facts.in = w.size(1);
  facts.out = w.size(0);
  if (w.scalar_type() != at::kFloat && w.scalar_type() != at::kDouble)
    return refuse(Reason::WeightDtype, c10::toString(w.scalar_type()));
  if (facts.out < facts.in)
    return refuse(Reason::WeightShape,
                  fmt::format("{} inputs, {} outputs", facts.in, facts.out));
  if (w.numel() == 0)
    return facts;
  const at::Tensor s = at::linalg_svdvals(w.detach().to(at::kDouble).cpu());
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

Value* solveRows(Graph& g, Value* y, Value* matrix, bool transposed,
                 bool square) {
  // In float64: the solution is then off by little more than the rounding of y
  // and its own, however many roundings the solve takes.
  const auto exact = [&](Value* v) {
    return g.insert(aten::to, {v, int64_t(at::kDouble)});
  };
  // All leading dimensions are one batch.
  Value* sizes = g.insert(aten::size, {y});
  Value* lastDim = g.insert(aten::size, {y, -1});
  Value* minusOne = g.insertConstant(-1);
  Value* flat =
      g.insertNode(g.createList(c10::IntType::get(), {minusOne, lastDim}))
          ->output();
  Value* rhs = exact(g.insert(aten::reshape, {y, flat}));
  Value* wide = exact(matrix);
  const Symbol solve = Symbol::fromQualString("aten::linalg_solve");
  const Symbol triangular =
      Symbol::fromQualString("aten::linalg_solve_triangular");
  const Symbol qr = Symbol::fromQualString("aten::linalg_qr");
  Value* x = nullptr;
  if (square) {
    Value* m = transposed ? g.insert(aten::t, {wide}) : wide;
    x = g.insert(solve, {m, rhs}, {NamedValue("left", false)});
  } else {
    Value* tall = transposed ? wide : g.insert(aten::t, {wide});
    // The operator has two results, which insert() makes one named tuple of.
    Value* factors = g.insert(qr, {tall}, {});
    Value* q = factors->node()->input(0);
    Value* r = factors->node()->input(1);
    x = g.insert(triangular,
                 {g.insert(aten::t, {r}), g.insert(aten::matmul, {rhs, q})},
                 {NamedValue("upper", false), NamedValue("left", false)});
  }
  x = g.insert(aten::type_as, {x, y});
  Value* in = g.insert(aten::size, {matrix, transposed ? 1 : 0});
  Value* inList =
      g.insertNode(g.createList(c10::IntType::get(), {in}))->output();
  Value* leading = g.insert(aten::slice, {sizes, 0, -1, 1});
  return g.insert(aten::reshape, {x, g.insert(aten::add, {leading, inList})});
}

} // namespace inv::opt
