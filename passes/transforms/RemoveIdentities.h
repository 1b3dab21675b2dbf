// Operators that return their operand.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See RemoveIdentities.cpp. Returns whether the graph changed.
bool removeIdentities(torch::jit::Graph& graph);

} // namespace inv::opt
