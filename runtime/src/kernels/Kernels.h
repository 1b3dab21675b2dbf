// Entry points to the kernels; they go through the dispatcher, as operators
// inv::scaled_add, inv::scaled_add_inverse and their in-place forms.
#pragma once

#include <ATen/core/Tensor.h>

namespace inv::kernels {

/// Can the kernels take these operands, with the bits that ATen's operators
/// would give? One device that has kernels, one floating dtype, strided.
bool fit(const at::Tensor& x, const at::Tensor& f);

/// Is the work of this thread on t's GPU recorded into a CUDA graph? REQUIRES:
/// t.is_cuda().
bool isCapturing(const at::Tensor& t);

/// All without history. Broadcasts as ATen's add does.
at::Tensor scaledAdd(const at::Tensor& x, const at::Tensor& f, double xScale,
                     double fScale);
/// The same, written into f; x and f have the same sizes.
void scaledAddInto(const at::Tensor& x, const at::Tensor& f, double xScale,
                   double fScale);
at::Tensor scaledAddInverse(const at::Tensor& y, const at::Tensor& f,
                            double xScale, double fScale);
/// The same, written into y; f broadcasts to y's sizes.
void scaledAddInverseInto(const at::Tensor& y, const at::Tensor& f,
                          double xScale, double fScale);

} // namespace inv::kernels
