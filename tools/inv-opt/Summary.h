// The table at the end of a run.
#pragma once

#include "passes/Model.h"

#include <iosfwd>
#include <vector>

namespace inv::opt {

/// Steps in the graph of a method, counted by their operators.
int64_t countSteps(const Method& method);

/// One line per method: steps by kind, values no longer kept, bytes saved
/// (where sizes are known), and how many remarks say that something was missed.
void printSummary(std::ostream& out, const std::vector<Model>& models,
                  const Remarks& remarks);

} // namespace inv::opt
