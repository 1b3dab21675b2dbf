// What the CPU kernels are compiled to, once per instruction set; ATen's
// dispatch stub picks one at run time.
#pragma once

#include <ATen/native/DispatchStub.h>

namespace at {
struct TensorIteratorBase;
}

namespace inv::kernels {

using at::native::DispatchStub;
using Kernel = void (*)(at::TensorIteratorBase&, double xScale, double fScale);
DECLARE_DISPATCH(Kernel, scaledAddStub)
DECLARE_DISPATCH(Kernel, scaledAddInverseStub)

} // namespace inv::kernels
