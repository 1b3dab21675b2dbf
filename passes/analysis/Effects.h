// What kind of thing a node is: may it be run again, moved, left out?
#pragma once

#include <vector>

namespace torch::jit {
struct Node;
struct Value;
} // namespace torch::jit

namespace inv::opt {

enum class EffectKind {
  Pure,   ///< a function of its inputs; may run again
  Assert, ///< may raise, changes nothing (an `if` that raises)
  Random, ///< draws random numbers; may run again under a restored generator
  Effect  ///< writes, prints, is unknown, ...: stays where it is, runs once
};

/// The kind of `n`, blocks included (the strongest kind wins). Batch norm's
/// running statistics do not count as an effect (see scratchInputs): a replay
/// gets copies of them.
EffectKind effectOf(const torch::jit::Node* n);

/// Inputs of `n` that it writes although it is Pure or Random: the running
/// statistics of batch_norm and instance_norm.
std::vector<torch::jit::Value*> scratchInputs(const torch::jit::Node* n);

/// Opens or closes a stretch of nodes that run differently: `with
/// torch.no_grad():`, autocast, torch.set_grad_enabled. Nothing may move
/// across.
bool switchesContext(const torch::jit::Node* n);

/// True for an operator whose schema writes one of its inputs (`add_`).
bool writesInput(const torch::jit::Node* n);

} // namespace inv::opt
