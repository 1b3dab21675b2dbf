// Order of nodes within a block.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See Schedule.cpp. Returns whether the graph changed.
bool schedule(torch::jit::Graph& graph);

/// An operator whose output is a view of its first operand, or may be that
/// operand itself: no arithmetic, same gradient.
bool isViewOperator(const torch::jit::Node* node);

} // namespace inv::opt
