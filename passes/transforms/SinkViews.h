// Part of form-steps; see SinkViews.cpp.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// Returns whether the graph changed.
bool sinkViews(torch::jit::Graph& graph);

} // namespace inv::opt
