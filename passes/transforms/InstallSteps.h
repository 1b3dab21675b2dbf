// Puts drafted steps into the method: replaces the nodes that they own.
#pragma once

#include "passes/Model.h"
#include "passes/transforms/BlockPlan.h"

namespace inv::opt {

/// Rewrites the graph of `context.method` by a plan that was made of it. The
/// plan's tables are stale afterwards.
void installSteps(const BlockPlan& plan, PassContext& context);

} // namespace inv::opt
