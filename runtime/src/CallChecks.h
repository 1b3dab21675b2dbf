// What only a call can tell: whether slots can stand for its tensors, and
// whether its x can be rebuilt from its y.
#pragma once

#include "StepFunctions.h"

#include <initializer_list>

namespace inv {

/// Slots and records can stand for these tensors: dense memory of the CPU's or
/// a GPU's with a version counter, no forward-mode gradients, no function
/// transform, no tensor subclass that sees every operator. Where that is not
/// so, plain operators do the work and autograd does all by itself.
bool areOrdinary(std::initializer_list<const Tensors*> lists);

/// A sentence about why x cannot be handed over, or null if it can.
/// `readsStates`: the step reads others beside x; `resizes`: abi::kResizes.
const char* whyNotInvertible(const Tensors& x, const Tensors& y,
                             bool readsStates, bool resizes);

} // namespace inv
