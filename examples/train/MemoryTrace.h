// Bytes of CPU tensors over time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace inv::train {

struct MemorySample {
  double seconds; ///< since the trace was started
  int64_t bytes;  ///< above the level at which it was started
};

/// Watches inv::CountingAllocator: notes the level after every allocation and
/// every release while a trace runs. One trace at a time, one thread.
class MemoryTrace {
public:
  /// Puts the counting allocator, and the one that takes notes, in place. To be
  /// called before any tensor is made.
  static void install();

  MemoryTrace(); ///< starts
  ~MemoryTrace();
  MemoryTrace(const MemoryTrace&) = delete;
  MemoryTrace& operator=(const MemoryTrace&) = delete;

  /// Ends the trace. At most about `limit` samples: of each stretch of time,
  /// the smallest and the largest level are kept, so the peak is always there.
  std::vector<MemorySample> finish(size_t limit = 1200);
};

} // namespace inv::train
