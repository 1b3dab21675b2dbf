// Where a state has exactly the values at which somebody who reads it has a
// kink.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace inv {

/// The places of such values, packed: 4 bytes for each where they are few, else
/// one bit for each element; nothing where there are none. A rebuilt state has
/// 1e-8 where there was 0, which is another side of a ReLU.
class Ties {
public:
  Ties() = default;
  /// One pass over `t` for each of `values`. `mayWait`: counting them may wait
  /// for the device; else each value takes one bit for each element.
  Ties(const at::Tensor& t, const std::vector<double>& values, bool mayWait);
  /// `t`, of the same sizes, with the values in these places: itself where
  /// nobody else sees its memory, else a copy. Does not wait.
  at::Tensor reimpose(at::Tensor t) const;

private:
  struct OfOneValue {
    double value;
    at::Tensor places, bits; // one of them
  };
  std::vector<OfOneValue> all_;
};

} // namespace inv
