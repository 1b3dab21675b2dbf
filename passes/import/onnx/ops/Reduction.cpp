// Reductions along axes, and sums along one.
#include "passes/import/onnx/ops/Support.h"

#include <algorithm>
#include <numeric>

namespace inv::opt::lower {

namespace {

/// The axes that are reduced, from the front; nothing where none is meant
/// (noop_with_empty_axes).
std::optional<std::vector<int64_t>> reduced(Lowering& b) {
  auto axes = axesOf(b, 1);
  if (axes && !axes->empty()) {
    auto all = b.axes(*axes, b.rank(0));
    std::sort(all.begin(), all.end());
    return all;
  }
  if (b.intAttribute("noop_with_empty_axes", 0) != 0)
    return std::nullopt;
  std::vector<int64_t> all(size_t(b.rank(0)));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

bool keeps(Lowering& b) { return b.intAttribute("keepdims", 1) != 0; }

Value* sumOf(Lowering& b, Value* x, const std::vector<int64_t>& axes) {
  if (axes.empty()) // of a single number
    return x;
  return b.call("sum", {x, axes, keeps(b)},
                {NamedValue("dtype", int64_t(b.dtype(0)))});
}

/// What is computed on floating-point numbers only, on integers.
template <typename F> Value* onFloats(Lowering& b, F f) {
  if (b.isFloat(0))
    return f(b.in(0));
  Value* y = f(b.cast(b.in(0), at::kDouble));
  return b.cast(y, b.dtype(0));
}

} // namespace

void reduceSum(Lowering& b) {
  auto axes = reduced(b);
  if (!axes)
    return b.out(b.in(0));
  if (b.isFloat(0) && !axes->empty())
    return b.out(b.call("sum", {b.in(0), *axes, keeps(b)}));
  b.out(sumOf(b, b.in(0), *axes));
}

void reduceMean(Lowering& b) {
  auto axes = reduced(b);
  if (!axes || axes->empty())
    return b.out(b.in(0));
  b.out(onFloats(b, [&](Value* x) {
    return b.call("mean", {x, *axes, keeps(b)});
  }));
}

/// The greatest and the least.
void reduceMost(Lowering& b) {
  auto axes = reduced(b);
  if (!axes || axes->empty())
    return b.out(b.in(0));
  b.out(b.call(b.aten, {b.in(0), *axes, keeps(b)}));
}

void reduceProd(Lowering& b) {
  auto axes = reduced(b);
  Value* x = b.in(0);
  if (axes)
    for (auto it = axes->rbegin(); it != axes->rend(); ++it)
      x = b.call("prod", {x, *it, keeps(b)},
                 {NamedValue("dtype", int64_t(b.dtype(0)))});
  b.out(x);
}

namespace {
/// The axes of a reduction that changes each element as well.
std::vector<int64_t> mustReduce(Lowering& b) {
  auto axes = reduced(b);
  if (!axes)
    b.refuse("without axes to reduce (noop_with_empty_axes)");
  return *axes;
}
} // namespace

void reduceL1(Lowering& b) {
  auto axes = mustReduce(b);
  b.out(sumOf(b, b.call("abs", {b.in(0)}), axes));
}

void reduceSumSquare(Lowering& b) {
  auto axes = mustReduce(b);
  b.out(sumOf(b, b.call("mul", {b.in(0), b.in(0)}), axes));
}

void reduceLogSum(Lowering& b) {
  auto axes = mustReduce(b);
  b.out(b.call("log", {sumOf(b, b.in(0), axes)}));
}

void reduceL2(Lowering& b) {
  auto axes = mustReduce(b);
  b.out(onFloats(b, [&](Value* x) {
    return axes.empty() ? b.call("abs", {x})
                        : b.call("linalg_vector_norm", {x, 2, axes, keeps(b)});
  }));
}

void reduceLogSumExp(Lowering& b) {
  auto axes = mustReduce(b);
  b.out(onFloats(b, [&](Value* x) {
    return axes.empty() ? x : b.call("logsumexp", {x, axes, keeps(b)});
  }));
}

void argMost(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", 0), b.rank(0));
  if (b.intAttribute("select_last_index", 0) == 0)
    return b.out(b.call(b.aten, {b.in(0), axis, keeps(b)}));
  Value* back = b.call("flip", {b.in(0), std::vector<int64_t>{axis}});
  Value* place = b.call(b.aten, {back, axis, keeps(b)});
  Number last = b.sub(b.size(0, axis), 1);
  b.out(b.call("rsub", {place, b.value(last)}));
}

/// CumSum and CumProd. What is exclusive begins with the neutral element.
void cumulative(Lowering& b) {
  int64_t rank = b.rank(0);
  int64_t axis = b.axis(b.constants(1, "an axis").at(0), rank);
  bool reverse = b.intAttribute("reverse", 0) != 0;
  std::vector<int64_t> dims{axis};
  Value* x = b.in(0);
  if (reverse)
    x = b.call("flip", {x, dims});
  x = b.call(b.aten, {x, axis}, {NamedValue("dtype", int64_t(b.dtype(0)))});
  if (b.intAttribute("exclusive", 0) != 0) {
    int64_t neutral = b.node().op == "CumProd" ? 1 : 0;
    x = padAxis(b, x, rank, axis, 1, -1, neutral);
  }
  b.out(reverse ? b.call("flip", {x, dims}) : x);
}

} // namespace inv::opt::lower
