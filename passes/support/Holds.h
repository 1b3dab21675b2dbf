// inv_opt::holds: a value, and that another one follows from it.
//
//   holds(Tensor whole, Tensor part, int operand) -> Tensor    gives `whole`
//
// `part` was made from another tensor x (m * x, x[:, indices]), and `whole` has
// x's elements wherever `part` reads them: running part's node on `whole`, in
// the place of its operand number `operand`, gives `part` again. An operator of
// the compiler's own (transforms/HoldParts), which is lowered to nothing before
// anything leaves the compiler.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

c10::Symbol holdsSymbol();

/// The operand of part's node that stands for x. REQUIRES: node is an
/// inv_opt::holds.
torch::jit::Value* heldOperand(torch::jit::Node* node);

/// Removes each inv_opt::holds of the block and of the blocks inside. Returns
/// whether there was one.
bool lowerHolds(torch::jit::Block* block);

} // namespace inv::opt
