// Orders drafted steps among the nodes of their block that stay.
#pragma once

#include "passes/transforms/StepDraft.h"

namespace inv::opt {

/// An order of the block's nodes and of the steps in which everything comes
/// behind what it reads, side effects and random operators keep their order,
/// and otherwise as near to the old order as can be. Steps for which there is
/// none are taken out of `drafts` and named in `refusals`.
struct Schedule {
  /// Node ids, or -1 - (index into drafts) for a step.
  std::vector<int32_t> order;
};

Schedule scheduleSteps(std::vector<StepDraft>& drafts, const Dataflow& flow,
                       std::vector<DraftRefusal>& refusals);

} // namespace inv::opt
