// In-place operators as values.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See Functionalize.cpp. Returns whether the graph changed.
bool functionalize(torch::jit::Graph& graph);

} // namespace inv::opt
