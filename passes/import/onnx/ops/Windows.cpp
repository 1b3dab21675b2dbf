#include "passes/import/onnx/ops/Windows.h"

#include <algorithm>

namespace inv::opt::lower {

bool Windows::symmetric() const {
  for (size_t d = 0; d < dims(); ++d)
    if (!before[d].known || before[d].known != after[d].known)
      return false;
  return true;
}

std::vector<int64_t> Windows::padding() const {
  std::vector<int64_t> pads;
  for (const auto& number : before)
    pads.push_back(number.known.value());
  return pads;
}

Windows windowsOf(Lowering& b, std::vector<int64_t> kernel) {
  Windows w;
  w.kernel = b.hasAttribute("kernel_shape") ? b.intsAttribute("kernel_shape")
                                            : std::move(kernel);
  size_t n = w.kernel.size();
  if (int64_t(n) + 2 != b.rank(0))
    b.refuse("has a kernel of another number of dimensions than its input");
  auto perDimension = [&](const char* name) {
    auto values = b.intsAttribute(name);
    if (values.empty())
      values.assign(n, 1);
    if (values.size() != n || std::any_of(values.begin(), values.end(),
                                          [](int64_t v) { return v < 1; }))
      b.refuse(std::string("has wrong ") + name);
    return values;
  };
  w.strides = perDimension("strides");
  w.dilations = perDimension("dilations");
  if (std::any_of(w.kernel.begin(), w.kernel.end(),
                  [](int64_t v) { return v < 1; }))
    b.refuse("has a kernel of unknown size");
  w.before.assign(n, 0);
  w.after.assign(n, 0);
  auto pads = b.intsAttribute("pads");
  std::string how = b.stringAttribute("auto_pad", "NOTSET");
  if (how == "NOTSET" && !pads.empty()) {
    if (pads.size() != 2 * n)
      b.refuse("has wrong pads");
    for (size_t d = 0; d < n; ++d) {
      w.before[d] = pads[d];
      w.after[d] = pads[n + d];
    }
  } else if (how == "SAME_UPPER" || how == "SAME_LOWER") {
    // As many outputs as ceil(size / stride).
    for (size_t d = 0; d < n; ++d) {
      Number size = b.size(0, int64_t(d) + 2);
      int64_t stride = w.strides[d];
      int64_t reach = (w.kernel[d] - 1) * w.dilations[d] + 1;
      Number windows = b.floorDivide(b.add(size, stride - 1), stride);
      Number wanted =
          b.add(b.mul(b.sub(windows, 1), stride), b.sub(reach, size));
      Number all = b.max(wanted, 0);
      Number half = b.floorDivide(all, 2), rest = b.sub(all, half);
      w.before[d] = how == "SAME_UPPER" ? half : rest;
      w.after[d] = how == "SAME_UPPER" ? rest : half;
    }
  }
  return w;
}

Value* padded(Lowering& b, const Windows& w, const c10::IValue& value) {
  Numbers pads; // last dimension first
  bool any = false;
  for (size_t d = w.dims(); d-- > 0;) {
    any |= w.before[d].known != 0 || w.after[d].known != 0;
    pads.push_back(w.before[d]);
    pads.push_back(w.after[d]);
  }
  if (!any)
    return b.in(0);
  return b.call("constant_pad_nd", {b.in(0), b.list(pads), value});
}

} // namespace inv::opt::lower
