// Shape arithmetic of traced graphs as integers.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See FoldSizes.cpp. Returns whether the graph changed.
bool foldSizes(torch::jit::Graph& graph);

} // namespace inv::opt
