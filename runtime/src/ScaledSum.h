// The arithmetic of the commonest step, y = x_scale * x + aux_scale * aux, by
// our fused kernels where they fit and by ATen's operators where they do not.
#pragma once

#include "StepFunctions.h"

namespace inv {

/// y, without history. Bit-equal to ATen's mul, mul, add. Written into aux's
/// buffer if nobody else can see it; `aux` is the caller's last reference.
at::Tensor scaledSum(const at::Tensor& x, at::Tensor aux,
                     const StepLayout& layout);

/// y with history, of ATen's operators.
at::Tensor scaledSumWithGrad(const at::Tensor& x, const at::Tensor& aux,
                             const StepLayout& layout);

/// x = (y - aux_scale * aux) / x_scale, without history. In y's buffer if
/// `mayReuseY`, and nobody else can see it; then `y` is the caller's last
/// reference.
at::Tensor scaledSumInverse(at::Tensor y, const at::Tensor& aux,
                            const StepLayout& layout, bool mayReuseY);

/// `t` is the only tensor that refers to its memory, and fills it.
bool ownsItsMemory(const at::Tensor& t);

} // namespace inv
