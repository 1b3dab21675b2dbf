// Writes into a fresh tensor as one value.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See GatherWrites.cpp. Returns whether the graph changed.
bool gatherWrites(torch::jit::Graph& graph);

} // namespace inv::opt
