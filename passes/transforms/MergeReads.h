// One value for one attribute, constant, size and integer expression.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See MergeReads.cpp. Returns whether the graph changed.
bool mergeReads(torch::jit::Graph& graph);

} // namespace inv::opt
