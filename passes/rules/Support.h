// Which elements of a value are zero, one, or another value's, as masks and
// places say. Internal to rules/ and to the transforms that ask them.
#pragma once

#include "passes/rules/Rule.h"
#include "passes/support/Written.h"

#include <optional>

namespace inv::opt {

/// Where the mask (`zero`: its complement) lets through: a tensor of zeros and
/// ones, or bools, that is a constant or follows from buffers. Nothing where it
/// is none, or has only zeros or only ones.
std::optional<Elements> maskOf(torch::jit::Value* m, const RuleContext& context,
                               bool zero = false);

/// Elements outside of which `v` is zero, by the masks that made it. Looks
/// through a few products and sums.
std::optional<Elements> supportOf(torch::jit::Value* v,
                                  const RuleContext& context, int depth = 6);

/// Elements in which `v` is one: exp of what is zero there, and the like.
std::optional<Elements> onesOf(torch::jit::Value* v,
                               const RuleContext& context);

/// Elements of the node's result that are those of its operand `x`, whatever
/// the other operands hold: a sum with what is zero there, a product with ones,
/// a choice, a tensor that is overwritten elsewhere.
std::optional<Elements> unchangedBy(torch::jit::Node* n,
                                    const torch::jit::Value* x,
                                    const RuleContext& context);

/// The elements that a view of a place names along its dimension, where they
/// are constants.
std::optional<Elements> elementsOf(const PlaceView& view,
                                   const RuleContext& context);

} // namespace inv::opt
