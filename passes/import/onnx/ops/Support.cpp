#include "passes/import/onnx/ops/Support.h"

#include "passes/support/GraphUtil.h"

namespace inv::opt::lower {

std::optional<c10::IValue> scalar(Lowering& b, size_t i, size_t other) {
  const at::Tensor* t = b.constant(i);
  auto rank = b.knownRank(other);
  if (t == nullptr || t->numel() != 1 || !rank || t->dim() > *rank ||
      t->scalar_type() == at::kBool || b.constant(other) != nullptr)
    return std::nullopt;
  at::Scalar number = t->item();
  if (number.isFloatingPoint())
    return c10::IValue(number.toDouble());
  return c10::IValue(number.toLong());
}

std::optional<std::vector<int64_t>> axesOf(Lowering& b, size_t i) {
  if (b.has(i))
    return b.constants(i, "axes");
  if (b.hasAttribute("axes"))
    return b.intsAttribute("axes");
  return std::nullopt;
}

Value* padAxis(Lowering& b, Value* x, int64_t rank, int64_t dim,
               const Number& before, const Number& after,
               const c10::IValue& value) {
  if (before.known == 0 && after.known == 0)
    return x;
  Numbers pads(size_t(2 * (rank - dim)), Number(0));
  pads[pads.size() - 2] = before;
  pads[pads.size() - 1] = after;
  return b.call("constant_pad_nd", {x, b.list(pads), value});
}

Value* sliceAxis(Lowering& b, Value* x, int64_t dim, const Number& start,
                 const Number& end) {
  if (start.known == 0 && end.known == kOpenEnd)
    return x;
  return b.call("slice", {x, dim, b.value(start), b.value(end), 1});
}

Value* arange(Lowering& b, const Number& n, at::ScalarType dtype, Value* like) {
  Value* device = b.graph().insert(torch::jit::prim::device, {like});
  return b.call(
      "arange", {b.value(n)},
      {NamedValue("dtype", int64_t(dtype)), NamedValue("device", device)});
}

Value* along(Lowering& b, Value* vector, int64_t rank, int64_t dim) {
  std::vector<int64_t> sizes(size_t(rank), 1);
  sizes[size_t(dim)] = -1;
  return rank == 1 ? vector : b.call("reshape", {vector, sizes});
}

} // namespace inv::opt::lower
