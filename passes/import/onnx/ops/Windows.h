// Where the windows of a convolution or a pooling lie.
#pragma once

#include "passes/import/onnx/ops/Support.h"

namespace inv::opt::lower {

struct Windows {
  std::vector<int64_t> kernel, strides, dilations;
  Numbers before, after; ///< padding at each end

  size_t dims() const { return kernel.size(); }
  /// Padding that is known, and the same at both ends.
  bool symmetric() const;
  std::vector<int64_t> padding() const; ///< REQUIRES: symmetric()
};

/// Reads the node's attributes; `kernel` where they leave it out.
Windows windowsOf(Lowering& b, std::vector<int64_t> kernel);

/// Operand 0 with the padding of all windows written out.
Value* padded(Lowering& b, const Windows& w, const c10::IValue& value);

} // namespace inv::opt::lower
