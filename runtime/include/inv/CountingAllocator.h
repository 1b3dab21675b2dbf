// Exact peak bytes of CPU tensors, for tests and measurements.
#pragma once

#include "inv/Runtime.h"

#include <cstdint>

namespace inv {

/// Counts the bytes that ATen asks the CPU allocator for: the sizes requested,
/// without alignment or the allocator's own overhead, so equal runs give equal
/// numbers. Memory that oneDNN or OpenMP take for themselves is not seen.
///
/// The counting allocator wraps the default one. Its data pointers are equal to
/// their contexts and it has a raw deleter (oneDNN insists on both). Tensors
/// made before `install` are freed by the allocator that made them and are not
/// counted. All functions may be called from any thread.
struct INV_API CountingAllocator {
  /// Makes ATen allocate CPU memory here from now on. Calling it again changes
  /// nothing. There is no way back: tensors made here may outlive any scope.
  static void install();
  /// Bytes allocated and not yet freed.
  static int64_t current();
  /// The largest value of `current` since `resetPeak` (or `install`).
  static int64_t peak();
  /// Sets `peak` to `current`.
  static void resetPeak();
};

} // namespace inv
