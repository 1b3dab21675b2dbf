// Tuples and lists of tensors that are taken apart where they were made.
#pragma once

#include <cstdint>
#include <optional>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See LowerLists.cpp. Returns whether the graph changed.
bool lowerLists(torch::jit::Graph& graph);

/// How many pieces `chunk`, `split_with_sizes`, `tensor_split`, ... give
/// whenever they do not throw; empty where only the run can tell.
std::optional<int64_t> fixedPieceCount(torch::jit::Node* split);

/// chunk, split, split_with_sizes or tensor_split, in any spelling.
bool isSplit(const torch::jit::Node* node);

} // namespace inv::opt
