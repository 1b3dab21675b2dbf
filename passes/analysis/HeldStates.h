// Which tensors the steps of a method hold until backward. Follows the runtime
// (docs/runtime.md): a step holds a state that it made or read until another
// step takes it. Internal to the accounting.
#pragma once

#include "passes/analysis/Accounting.h"

#include <functional>
#include <vector>

namespace inv::opt {

struct HeldState {
  size_t block = 0, step = 0; ///< the first step that holds it
  ValueId value = -1;         ///< of the block
  const BlockRun* run = nullptr;
};

/// `call` is the run to follow, each execution of a step by itself; without
/// one each block is taken to run once, a loop on and on. Captures are not
/// among the states.
std::vector<HeldState>
heldStates(const std::vector<AccountedBlock>& blocks,
           const std::unordered_set<const torch::jit::Value*>& leaving,
           const BlockRun* call);

} // namespace inv::opt
