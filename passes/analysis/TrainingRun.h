// One forward call of a method on sample inputs under autograd, and what it
// left behind: every storage that is kept for backward, who keeps it, and where
// it comes from. Not a model of what derivatives keep (analysis/Saved.h) but
// the thing itself.
#pragma once

#include "passes/support/GraphRunner.h"

#include <unordered_set>
#include <vector>

namespace inv::opt {

/// A storage that some derivative keeps.
struct KeptStorage {
  const void* storage = nullptr; ///< its identity, for TrainingRun::storageOf
  /// The value that it was first seen as; null where an operator made it for
  /// itself (a mask, statistics).
  const torch::jit::Value* value = nullptr;
  /// Who keeps it, in the order of the run; nodes of blocks are named
  /// themselves, not the `if` or loop around them.
  std::vector<const torch::jit::Node*> savers;
  int64_t bytes = 0;
};

/// What inv::resplit does where it stands for a split of a concatenation.
enum class Streams {
  HandedOn, ///< it returns the parts, as it will in the rewritten model
  Copied,   ///< it concatenates and splits, as the model was written
};

/// One run of a block: of the method, of a branch, of a loop's body.
struct BlockRun {
  const torch::jit::Block* block = nullptr;
  /// Of the tensors that the block's nodes read and make, and that it hands on.
  std::unordered_map<const torch::jit::Value*, const void*> storages;
  std::vector<BlockRun> inner; ///< of the blocks inside, in order
};

class TrainingRun {
public:
  /// Runs `graph` on `inputs` (self first), on a copy of the module; tensors of
  /// floating dtype ask for gradients. Throws what the operators throw.
  TrainingRun(const torch::jit::Graph& graph,
              const std::vector<c10::IValue>& inputs, Streams streams);

  /// Every value; of a loop's body those of the last iteration.
  const ValueMap& values() const { return values_; }
  /// Without what is there anyway: parameters, buffers and constants. In the
  /// order in which they were first kept.
  const std::vector<KeptStorage>& kept() const { return kept_; }
  /// The storage of a value's tensor; null for anything else.
  const void* storageOf(const torch::jit::Value* v) const;
  /// Of the storage of a value that is a tensor.
  int64_t bytesOf(const torch::jit::Value* v) const;
  /// Of a storage that a value had.
  int64_t bytesOf(const void* storage) const { return sizes_.at(storage); }
  /// The call itself.
  const BlockRun& blocks() const { return blocks_; }
  /// It was there before the call and stays: of a parameter, buffer or
  /// constant.
  bool isThere(const void* storage) const { return there_.count(storage) != 0; }
  /// Operators whose autograd nodes do not tell what they keep.
  const std::vector<const torch::jit::Node*>& silent() const { return silent_; }

private:
  ValueMap values_;
  std::vector<KeptStorage> kept_;
  std::vector<const torch::jit::Node*> silent_;
  std::unordered_set<const void*> there_;
  std::unordered_map<const void*, int64_t> sizes_;
  BlockRun blocks_;
};

} // namespace inv::opt
