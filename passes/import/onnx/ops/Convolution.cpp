// Convolutions, and what undoes them.
#include "passes/import/onnx/ops/Windows.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace inv::opt::lower {

namespace {

/// The name of the operator for so many spatial dimensions.
const char* dimensional(Lowering& b, size_t dims,
                        const std::array<const char*, 3>& names) {
  if (dims < 1 || dims > 3)
    b.refuse(fmt::format("with {} spatial dimensions", dims));
  return names[dims - 1];
}

/// The sizes of a weight behind its first two.
std::vector<int64_t> kernelOf(Lowering& b, size_t i) {
  const auto& shape = b.shape(i);
  return {shape.begin() + std::min<std::ptrdiff_t>(2, std::ssize(shape)),
          shape.end()};
}

NamedValue bias(Lowering& b, size_t i) {
  return b.has(i) ? NamedValue(b.in(i)) : NamedValue(none());
}

} // namespace

void convolution(Lowering& b) {
  Windows w = windowsOf(b, kernelOf(b, 1));
  const char* op = dimensional(b, w.dims(), {"conv1d", "conv2d", "conv3d"});
  bool own = w.symmetric();
  Value* x = own ? b.in(0) : padded(b, w, 0);
  auto padding = own ? w.padding() : std::vector<int64_t>(w.dims(), 0);
  b.out(b.call(op, {x, b.in(1), bias(b, 2), w.strides, padding, w.dilations,
                    b.intAttribute("group", 1)}));
}

/// Padding means what is cut off the result. What ATen's own padding and
/// output_padding cannot say is cut off, or added, behind it.
void transposedConvolution(Lowering& b) {
  Windows w = windowsOf(b, kernelOf(b, 1));
  size_t n = w.dims();
  const char* op = dimensional(
      b, n, {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"});
  auto more = b.intsAttribute("output_padding");
  more.resize(n, 0);
  auto wanted = b.intsAttribute("output_shape");
  std::string how = b.stringAttribute("auto_pad", "NOTSET");
  for (size_t d = 0; d < n; ++d) {
    int64_t reach = (w.kernel[d] - 1) * w.dilations[d] + 1;
    Number total = 0;
    if (!wanted.empty()) {
      if (wanted.size() != n && wanted.size() != n + 2)
        b.refuse("has a wrong output_shape");
      Number size = b.size(0, int64_t(d) + 2);
      Number full =
          b.add(b.mul(b.sub(size, 1), w.strides[d]), Number(more[d] + reach));
      total = b.sub(full, wanted[wanted.size() - n + d]);
    } else if (how == "SAME_UPPER" || how == "SAME_LOWER") {
      // As many outputs as stride * size.
      total = Number(reach + more[d] - w.strides[d]);
    } else {
      continue;
    }
    Number half = b.floorDivide(total, 2), rest = b.sub(total, half);
    w.before[d] = how == "SAME_UPPER" ? half : rest;
    w.after[d] = how == "SAME_UPPER" ? rest : half;
  }
  for (size_t d = 0; d < n; ++d)
    if (more[d] < 0 || more[d] >= std::max(w.strides[d], w.dilations[d]))
      b.refuse("has an output_padding that is not less than stride and "
               "dilation");
  bool own = w.symmetric();
  if (own)
    for (int64_t pad : w.padding())
      own &= pad >= 0;
  auto padding = own ? w.padding() : std::vector<int64_t>(n, 0);
  Value* y = b.call(op, {b.in(0), b.in(1), bias(b, 2), w.strides, padding, more,
                         b.intAttribute("group", 1), w.dilations});
  if (!own) {
    // Cropping is padding by less than nothing; more than is there is zeros,
    // or would be, but for the bias.
    Numbers pads;
    for (size_t d = n; d-- > 0;) {
      for (const auto& number : {w.before[d], w.after[d]})
        if (b.has(2) && number.known && *number.known < 0)
          b.refuse("makes more outputs than there are, and has a bias");
      pads.push_back(b.sub(0, w.before[d]));
      pads.push_back(b.sub(0, w.after[d]));
    }
    y = b.call("constant_pad_nd", {y, b.list(pads), 0});
  }
  b.out(y);
}

/// col2im; ATen knows it in two dimensions, padded the same at both ends.
void col2im(Lowering& b) {
  auto image = b.constants(1, "image sizes");
  auto block = b.constants(2, "block sizes");
  auto pads = b.intsAttribute("pads");
  auto strides = b.intsAttribute("strides");
  auto dilations = b.intsAttribute("dilations");
  if (image.size() != 2 || block.size() != 2)
    b.refuse("is done on images of two dimensions");
  pads.resize(4, 0);
  if (strides.empty())
    strides = {1, 1};
  if (dilations.empty())
    dilations = {1, 1};
  if (pads[0] != pads[2] || pads[1] != pads[3])
    b.refuse("needs the same padding at both ends");
  b.out(b.call("col2im", {b.in(0), image, block, dilations,
                          std::vector<int64_t>{pads[0], pads[1]}, strides}));
}

} // namespace inv::opt::lower
