// Estimates of the most bytes alive at once in a training step. Internal to
// analysis/.
#pragma once

#include "passes/analysis/Accounting.h"

namespace inv::opt {

/// Of an if or a loop with steps inside.
struct InsideCost {
  int64_t held = 0;  ///< by these steps, and kept by no derivative
  int64_t again = 0; ///< brought back by one of them at a time
};

/// Of the method with its own steps, in this order (see account()). `dropped`:
/// storages that nobody keeps because of steps, in whatever block.
Peak estimatePeak(const Dataflow& flow, const TrainingRun& run,
                  const std::vector<StepOutline>& steps,
                  const std::vector<int32_t>& order,
                  const std::unordered_set<const void*>& dropped,
                  const std::unordered_map<NodeId, InsideCost>& inside);

/// Of the method as it was written.
Peak estimatePlainPeak(const Dataflow& flow, const TrainingRun& run);

} // namespace inv::opt
