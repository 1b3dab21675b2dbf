// Tuples that ifs and loops hand on, element by element.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See FlattenResults.cpp. Returns whether the graph changed.
bool flattenResults(torch::jit::Graph& graph);

} // namespace inv::opt
