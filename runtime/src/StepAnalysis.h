// What the methods of a step do besides computing, read off their graphs.
#pragma once

#include <ATen/core/function.h>

#include <vector>

namespace inv {

/// What a method does with one of its arguments.
struct ArgumentFacts {
  /// A node may write it in place, as batch norm does its running statistics.
  bool written = false;
  /// A result may depend on the value that the method found in it.
  bool read = false;
  /// Arguments, each batch norm's `training`, of which one that is false has
  /// the value read after all.
  std::vector<size_t> readUnless;
  /// It influences a discrete choice (argmax, sort, rounding, a comparison):
  /// one unit in the last place more or less, and the result is another.
  bool chooses = false;
  /// It reaches an operator that is not smooth everywhere, so that an exact
  /// zero matters.
  bool kinks = false;
};

struct MethodFacts {
  std::vector<ArgumentFacts> arguments; ///< without self
  /// It may draw from a default generator. True in doubt.
  bool mayDraw = false;
};

/// REQUIRES: `method` is a TorchScript function.
MethodFacts analyzeMethod(torch::jit::Function& method);

} // namespace inv
