// Complementary slices as one split.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See JoinSlices.cpp. Returns whether the graph changed.
bool joinSlices(torch::jit::Graph& graph);

} // namespace inv::opt
