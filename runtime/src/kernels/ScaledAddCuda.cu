// CUDA twins of ScaledAddKernel.cpp, in a library of their own: programs that
// use no GPU do not load LibTorch's CUDA part.
#include "kernels/Functors.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/cuda/Loops.cuh>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace inv::kernels {
namespace {

template <template <typename, typename> class Op>
void run(at::TensorIteratorBase& iter, double xScale, double fScale) {
  const c10::cuda::CUDAGuard guard(iter.device());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, iter.common_dtype(), "inv::scaled_add", [&] {
        using Math = at::opmath_type<scalar_t>;
        at::native::gpu_kernel(iter,
                               Op<scalar_t, Math>{static_cast<Math>(xScale),
                                                  static_cast<Math>(fScale)});
      });
}

template <template <typename, typename> class Op>
at::Tensor out(const at::Tensor& a, const at::Tensor& f, double xScale,
               double fScale) {
  at::Tensor result;
  auto iter = at::TensorIteratorConfig()
                  .add_output(result)
                  .add_const_input(a)
                  .add_const_input(f)
                  .build();
  run<Op>(iter, xScale, fScale);
  return iter.output();
}

template <template <typename, typename> class Op>
void into(const at::Tensor& result, const at::Tensor& a, const at::Tensor& f,
          double xScale, double fScale) {
  auto iter = at::TensorIteratorConfig()
                  .add_output(result)
                  .add_const_input(a)
                  .add_const_input(f)
                  .resize_outputs(false)
                  .build();
  run<Op>(iter, xScale, fScale);
}

at::Tensor scaledAdd(const at::Tensor& x, const at::Tensor& f, double xScale,
                     double fScale) {
  return out<ScaledAdd>(x, f, xScale, fScale);
}
at::Tensor& scaledAddInto(at::Tensor& f, const at::Tensor& x, double xScale,
                          double fScale) {
  into<ScaledAdd>(f, x, f, xScale, fScale);
  return f;
}
at::Tensor scaledAddInverse(const at::Tensor& y, const at::Tensor& f,
                            double xScale, double fScale) {
  return out<ScaledAddInverse>(y, f, xScale, fScale);
}
at::Tensor& scaledAddInverseInto(at::Tensor& y, const at::Tensor& f,
                                 double xScale, double fScale) {
  into<ScaledAddInverse>(y, y, f, xScale, fScale);
  return y;
}

} // namespace
} // namespace inv::kernels

TORCH_LIBRARY_IMPL(inv, CUDA, m) {
  m.impl("scaled_add", &inv::kernels::scaledAdd);
  m.impl("scaled_add_into_", &inv::kernels::scaledAddInto);
  m.impl("scaled_add_inverse", &inv::kernels::scaledAddInverse);
  m.impl("scaled_add_inverse_", &inv::kernels::scaledAddInverseInto);
}
