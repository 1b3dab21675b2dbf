// In-place operators as values.
#pragma once

#include <optional>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See Functionalize.cpp. Returns whether the graph changed.
bool functionalize(torch::jit::Graph& graph);

/// The operator that gives as a value what this in-place one writes, with the
/// same bits and gradients; nothing where there is none.
std::optional<c10::Symbol> outOfPlace(const torch::jit::Node* node);

} // namespace inv::opt
