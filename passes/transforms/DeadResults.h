// Part of canonicalize; see DeadResults.cpp.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// Returns whether the graph changed.
bool removeDeadResults(torch::jit::Graph& graph);

} // namespace inv::opt
