#include "ScaledSum.h"

#include "kernels/Kernels.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/div.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sub.h>

namespace inv {

bool ownsItsMemory(const at::Tensor& t) {
  return t.has_storage() && t.use_count() == 1 &&
         t.storage().use_count() == 1 && t.is_non_overlapping_and_dense();
}

namespace {

bool alike(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device() &&
         a.sizes() == b.sizes();
}

at::Tensor scaled(const at::Tensor& t, double scale) {
  return scale == 1 ? t : at::mul(t, scale);
}

} // namespace

at::Tensor scaledSum(const at::Tensor& x, at::Tensor aux,
                     const StepLayout& layout) {
  at::NoGradGuard noGrad;
  if (!kernels::fit(x, aux))
    return scaledSumWithGrad(x.detach(), aux.detach(), layout);
  // ATen would give the sum x's strides; other strides are other bits for what
  // reads it.
  if (alike(x, aux) && x.strides() == aux.strides() && ownsItsMemory(aux)) {
    kernels::scaledAddInto(x, aux, layout.xScale, layout.auxScale);
    return aux;
  }
  return kernels::scaledAdd(x, aux, layout.xScale, layout.auxScale);
}

at::Tensor scaledSumWithGrad(const at::Tensor& x, const at::Tensor& aux,
                             const StepLayout& layout) {
  // With a factor of 1 or -1, add's alpha rounds nothing that mul would not.
  if (layout.auxScale == 1 || layout.auxScale == -1)
    return at::add(scaled(x, layout.xScale), aux,
                   static_cast<int64_t>(layout.auxScale));
  return at::add(scaled(x, layout.xScale), scaled(aux, layout.auxScale));
}

at::Tensor scaledSumInverse(at::Tensor y, const at::Tensor& aux,
                            const StepLayout& layout, bool mayReuseY) {
  at::NoGradGuard noGrad;
  if (!kernels::fit(y, aux)) {
    at::Tensor x = at::sub(y, scaled(aux, layout.auxScale));
    return layout.xScale == 1 ? x : at::div(x, layout.xScale);
  }
  if (mayReuseY && ownsItsMemory(y)) {
    kernels::scaledAddInverseInto(y, aux, layout.xScale, layout.auxScale);
    return y;
  }
  return kernels::scaledAddInverse(y, aux, layout.xScale, layout.auxScale);
}

} // namespace inv
