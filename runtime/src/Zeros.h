// Where a state is exactly zero.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace inv {

/// The places of a tensor's exact zeros, packed: 4 bytes for each where they
/// are few, else one bit for each element; nothing where there are none. A
/// rebuilt state has 1e-8 there, which is another side of a ReLU.
class Zeros {
public:
  Zeros() = default;
  /// One pass over `t`; waits for an accelerator.
  explicit Zeros(const at::Tensor& t);
  /// `t`, of the same sizes, with zeros in these places: itself where nobody
  /// else sees its memory, else a copy.
  at::Tensor reimpose(at::Tensor t) const;

private:
  at::Tensor places_, bits_; // one of them, or none
};

} // namespace inv
