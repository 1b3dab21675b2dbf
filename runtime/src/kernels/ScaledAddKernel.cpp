// CPU kernels, on ATen's vectorised loops. This file is compiled once for each
// instruction set (see runtime/CMakeLists.txt), without contraction.
#include "kernels/Functors.h"
#include "kernels/Stubs.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/cpu/Loops.h>

namespace inv::kernels {
namespace {

using at::vec::Vectorized;

/// Runs `Op`, and its vector twin for the types that need no rounding between.
template <template <typename, typename> class Op, typename VectorOp>
void run(at::TensorIteratorBase& iter, double xScale, double fScale,
         const VectorOp& vectorOp) {
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, iter.common_dtype(), "inv::scaled_add", [&] {
        using Math = at::opmath_type<scalar_t>;
        const Op<scalar_t, Math> op{static_cast<Math>(xScale),
                                    static_cast<Math>(fScale)};
        if constexpr (std::is_same_v<scalar_t, Math>) {
          const Vectorized<scalar_t> xs(op.xScale), fs(op.fScale);
          at::native::cpu_kernel_vec(
              iter, op, [=](Vectorized<scalar_t> a, Vectorized<scalar_t> f) {
                return vectorOp(a, f, xs, fs);
              });
        } else {
          at::native::cpu_kernel(iter, op);
        }
      });
}

void scaledAddKernel(at::TensorIteratorBase& iter, double xScale,
                     double fScale) {
  run<ScaledAdd>(iter, xScale, fScale, [](auto x, auto f, auto xs, auto fs) {
    return xs * x + fs * f;
  });
}

void scaledAddInverseKernel(at::TensorIteratorBase& iter, double xScale,
                            double fScale) {
  run<ScaledAddInverse>(
      iter, xScale, fScale,
      [](auto y, auto f, auto xs, auto fs) { return (y - fs * f) / xs; });
}

} // namespace
} // namespace inv::kernels

// The macro specializes a template of at::native, which has to be done there.
namespace at::native {
using inv::kernels::scaledAddInverseStub_DECLARE_DISPATCH_type;
using inv::kernels::scaledAddStub_DECLARE_DISPATCH_type;
REGISTER_DISPATCH(scaledAddStub, &inv::kernels::scaledAddKernel)
REGISTER_DISPATCH(scaledAddInverseStub, &inv::kernels::scaledAddInverseKernel)
} // namespace at::native
