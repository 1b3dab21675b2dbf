// Bounds of a value, from the operators that make it: what keeps a scale away
// from zero.
#pragma once

#include <limits>

namespace torch::jit {
struct Value;
} // namespace torch::jit

namespace inv::opt {

/// All elements lie between low and high. An open end is never reached in exact
/// arithmetic (exp(x) > 0), though floating point may round to it.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool lowOpen = true, highOpen = true;

  /// Zero is not an element, in exact arithmetic.
  bool excludesZero() const {
    return low > 0 || high < 0 || (low == 0 && lowOpen) ||
           (high == 0 && highOpen);
  }
  /// The least |element|; 0 for a range that comes close to zero.
  double smallest() const { return low > 0 ? low : high < 0 ? -high : 0.0; }
  /// The greatest |element|, or infinity.
  double largest() const { return high > -low ? high : -low; }
};

/// Interval arithmetic backwards from `v`: elementwise functions, sums and
/// products with constants, views and pieces. Everything else is unbounded, as
/// is what lies behind more than a few dozen operators.
Range rangeOf(const torch::jit::Value* v);

} // namespace inv::opt
