// Pooling.
#include "passes/import/onnx/ops/Windows.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <fmt/format.h>

namespace inv::opt::lower {

namespace {

/// "max_pool" -> "max_pool2d"
std::string dimensional(Lowering& b, const std::string& name, size_t dims) {
  if (dims < 1 || dims > 3)
    b.refuse(fmt::format("with {} spatial dimensions", dims));
  return fmt::format("{}{}d", name, dims);
}

/// Whether ATen's own padding will do: at most half a window.
bool ownPadding(const Windows& w) {
  if (!w.symmetric())
    return false;
  auto pads = w.padding();
  for (size_t d = 0; d < w.dims(); ++d)
    if (pads[d] < 0 || 2 * pads[d] > w.kernel[d])
      return false;
  return true;
}

std::vector<int64_t> spatialDims(Lowering& b) {
  std::vector<int64_t> dims(size_t(std::max<int64_t>(b.rank(0) - 2, 0)));
  std::iota(dims.begin(), dims.end(), 2);
  return dims;
}

/// Places in one plane, as ATen counts them, made places in the whole tensor.
Value* placesInAll(Lowering& b, Value* places, Value* x, int64_t dims) {
  Numbers sizes;
  for (int64_t d = 0; d < dims + 2; ++d)
    sizes.push_back(b.size(0, d));
  Number plane = b.product({sizes.begin() + 2, sizes.end()});
  Value* first = arange(b, b.mul(sizes[0], sizes[1]), at::kLong, x);
  first = b.call("mul", {first, b.value(plane)});
  Numbers shape{sizes[0], sizes[1]};
  shape.resize(size_t(dims) + 2, Number(1));
  first = b.call("reshape", {first, b.list(shape)});
  return b.call("add", {places, first});
}

} // namespace

void maxPool(Lowering& b) {
  Windows w = windowsOf(b, {});
  bool ceil = b.intAttribute("ceil_mode", 0) != 0;
  bool own = ownPadding(w);
  Value* x = b.in(0);
  if (!own)
    x = padded(b, w,
               b.isFloat(0)
                   ? c10::IValue(-std::numeric_limits<double>::infinity())
                   : c10::IValue(int64_t(b.dtype(0) == at::kByte ? 0 : -128)));
  auto padding = own ? w.padding() : std::vector<int64_t>(w.dims(), 0);
  std::string op = dimensional(b, "max_pool", w.dims());
  Arguments arguments{x, w.kernel, w.strides, padding, w.dilations, ceil};
  if (!b.wants(1))
    return b.out(b.call(op.c_str(), arguments));
  if (b.intAttribute("storage_order", 0) != 0)
    b.refuse("counts its Indices by columns (storage_order=1)");
  if (!own)
    b.refuse("has Indices and padding that differs at the two ends, or exceeds "
             "half a window");
  auto results = b.unpack(b.call((op + "_with_indices").c_str(), arguments), 2);
  b.out(results[0]);
  b.out(placesInAll(b, results[1], x, int64_t(w.dims())), 1);
}

namespace {

/// The mean of each window; `counted`: padding is part of the window.
Value* averages(Lowering& b, const Windows& w, bool counted) {
  bool ceil = b.intAttribute("ceil_mode", 0) != 0;
  for (int64_t dilation : w.dilations)
    if (dilation != 1)
      b.refuse("has windows with gaps (dilations)");
  std::string op = dimensional(b, "avg_pool", w.dims());
  auto pool = [&](Value* x, const std::vector<int64_t>& padding, bool count) {
    return b.call(op.c_str(), {x, w.kernel, w.strides, padding, ceil, count});
  };
  if (ownPadding(w))
    return pool(b.in(0), w.padding(), counted);
  std::vector<int64_t> none(w.dims(), 0);
  Value* mean = pool(padded(b, w, 0), none, true);
  if (counted)
    return mean;
  // Over what is there: divided by the share of it.
  Operand ones = b.operand(0);
  ones.value = b.call("ones_like", {b.in(0)});
  std::swap(ones, b.operand(0));
  Value* share = pool(padded(b, w, 0), none, true);
  std::swap(ones, b.operand(0));
  return b.call("div", {mean, share});
}

} // namespace

void averagePool(Lowering& b) {
  b.out(averages(b, windowsOf(b, {}),
                 b.intAttribute("count_include_pad", 0) != 0));
}

/// (sum |x|^p)^(1/p)
void lpPool(Lowering& b) {
  Windows w = windowsOf(b, {});
  double p = double(b.intAttribute("p", 2));
  Operand before = b.operand(0);
  b.operand(0).value = b.call("pow", {b.call("abs", {b.in(0)}), p});
  Value* mean = averages(b, w, true);
  b.operand(0) = before;
  double elements = 1;
  for (int64_t k : w.kernel)
    elements *= double(k);
  b.out(b.call("pow", {b.call("mul", {mean, elements}), 1 / p}));
}

void globalAveragePool(Lowering& b) {
  b.out(b.call("mean", {b.in(0), spatialDims(b), true}));
}
void globalMaxPool(Lowering& b) {
  b.out(b.call("amax", {b.in(0), spatialDims(b), true}));
}
void globalLpPool(Lowering& b) {
  b.out(b.call("linalg_vector_norm",
               {b.in(0), b.intAttribute("p", 2), spatialDims(b), true}));
}

} // namespace inv::opt::lower
