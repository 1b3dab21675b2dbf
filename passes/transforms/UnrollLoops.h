// Loops over the elements of a list, as one piece of code for each.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// Whether the loop's body takes an element out of a list of tensors from
/// outside of it, at a place that depends on the number of the iteration.
bool readsElements(torch::jit::Node* loop);

/// See UnrollLoops.cpp. Returns whether the graph changed.
bool unrollLoops(torch::jit::Graph& graph);

} // namespace inv::opt
