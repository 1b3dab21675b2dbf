// Estimates of the most bytes alive at once in a training step. Internal to
// analysis/.
#pragma once

#include "passes/analysis/Accounting.h"

namespace inv::opt {

/// Of the method with steps, in this order (see account()).
Peak estimatePeak(const Dataflow& flow, const TrainingRun& run,
                  const std::vector<StepOutline>& steps,
                  const std::vector<int32_t>& order);

/// Of the method as it was written.
Peak estimatePlainPeak(const Dataflow& flow, const TrainingRun& run);

} // namespace inv::opt
