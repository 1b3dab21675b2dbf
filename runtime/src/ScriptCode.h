// Runs TorchScript functions the same way every time.
#pragma once

#include <ATen/core/function.h>
#include <ATen/core/stack.h>

namespace inv {

/// Runs `function` on `stack` by a fixed interpreter code. The executors of
/// LibTorch profile a function and specialise it from the second call on, with
/// other formulas and other fusions; a step's two evaluations, in forward and
/// in backward, must agree bit for bit, so they never go through an executor.
///
/// The code is made once per function and autocast state, and forgotten with
/// the function. REQUIRES: `function` is a TorchScript function.
void runFixed(torch::jit::Function& function, torch::jit::Stack& stack);

} // namespace inv
