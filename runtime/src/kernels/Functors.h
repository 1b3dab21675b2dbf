// The arithmetic of the kernels, one element at a time, for host and device.
// Only c10's macros are included, so that it can be tested by itself.
#pragma once

#include <c10/macros/Macros.h>

namespace inv::kernels {

/// y = xScale * x + fScale * f, each product rounded to T before the sum, as
/// separate operators would round. Math: the type to compute in (float for
/// half and bfloat16, else T). Compile without contraction into fma.
template <typename T, typename Math> struct ScaledAdd {
  Math xScale, fScale;
  C10_HOST_DEVICE T operator()(T x, T f) const {
    const T a = static_cast<T>(xScale * static_cast<Math>(x));
    const T b = static_cast<T>(fScale * static_cast<Math>(f));
    return static_cast<T>(static_cast<Math>(a) + static_cast<Math>(b));
  }
};

/// Undoes ScaledAdd: x = (y - fScale * f) / xScale.
template <typename T, typename Math> struct ScaledAddInverse {
  Math xScale, fScale;
  C10_HOST_DEVICE T operator()(T y, T f) const {
    const T b = static_cast<T>(fScale * static_cast<Math>(f));
    const T a = static_cast<T>(static_cast<Math>(y) - static_cast<Math>(b));
    return static_cast<T>(static_cast<Math>(a) / xScale);
  }
};

} // namespace inv::kernels
