// The submodules of a model that a person would call its blocks. Internal to
// analysis/.
#pragma once

#include "passes/analysis/Dataflow.h"

#include <string>
#include <vector>

namespace inv::opt {

/// For every node of `flows`, one behind the other, the path of its block;
/// empty for the method's own code. A module is looked into where it only calls
/// others, or where whole steps lie in one of its own submodules; `stepOf`
/// gives each node's step, or -1.
std::vector<std::string> blockPaths(const std::vector<const Dataflow*>& flows,
                                    const std::vector<int32_t>& stepOf);

} // namespace inv::opt
