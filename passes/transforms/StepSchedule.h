// Puts drafted steps into the method: orders them among the nodes that stay,
// and replaces the nodes they own.
#pragma once

#include "passes/Model.h"
#include "passes/transforms/StepDraft.h"

namespace inv::opt {

/// An order of the method's nodes and of the steps in which everything comes
/// behind what it reads, side effects and random operators keep their order,
/// and otherwise as near to the old order as can be. Steps for which there is
/// none are taken out of `drafts` and named in `refusals`.
struct Schedule {
  /// Node ids, or -1 - (index into drafts) for a step.
  std::vector<int32_t> order;
};

Schedule scheduleSteps(std::vector<StepDraft>& drafts, const Dataflow& flow,
                       std::vector<DraftRefusal>& refusals);

/// Rewrites the graph of `context.method`. `flow` describes it before the
/// rewrite and is stale afterwards.
void installSteps(const std::vector<StepDraft>& drafts,
                  const Schedule& schedule, const RuleContext& rules,
                  PassContext& context);

} // namespace inv::opt
