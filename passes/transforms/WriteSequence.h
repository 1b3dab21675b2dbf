// One fresh tensor of a graph and what is written into it: which writes they
// are, where each goes, and the proof that they can be read as one value
// (GatherWrites.cpp says what must hold). Changes nothing. Internal to
// transforms/.
#pragma once

#include "passes/analysis/StorageGroups.h"
#include "passes/support/Written.h"

#include <optional>
#include <unordered_map>
#include <vector>

namespace inv::opt {

/// Views from the tensor to a place in it; empty: all of it.
using Place = std::vector<PlaceView>;

/// The same elements, as far as constants and equal values say.
bool samePlace(const Place& a, const Place& b);

/// The same number, or none of both, which stands for `none`.
bool sameNumber(torch::jit::Value* a, torch::jit::Value* b, int64_t none);

/// How a tensor comes into being.
enum class Maker {
  None,  ///< in a way that is not known to give new storage
  Empty, ///< with elements that may be anything
  Filled,
  Clone,
};

Maker makerOf(const torch::jit::Node* n);

/// The operand that the schema gives this name; null where it has none.
torch::jit::Value* namedOperand(torch::jit::Node* n, const char* name);

/// Of index_put_(place, [None, ..., indices], piece, False) the dimension of
/// the indices.
std::optional<size_t> dimOfPut(torch::jit::Node* n);

struct WriteSequence {
  torch::jit::Value* tensor = nullptr;
  Maker maker = Maker::None;
  std::vector<torch::jit::Node*> writes; ///< in program order, at least one
  /// The tensor's aliases up to the last write, with the place of each.
  std::unordered_map<const torch::jit::Value*, Place> places;
};

/// The writes into `tensor`, where they can be gathered; nothing otherwise.
std::optional<WriteSequence> findWrites(torch::jit::Value* tensor,
                                        const StorageGroups& groups);

} // namespace inv::opt
