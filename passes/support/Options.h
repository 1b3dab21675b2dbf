// The settings of a run that passes read. Filled by the tool from its flags.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace inv::opt {

enum class Layout { Keep, Fast };

struct SampleInput {
  std::string name; ///< empty where none was given
  at::Tensor value;
};

struct Options {
  /// keep: forward bit-identical; fast: drops the copies that this needs.
  Layout layout = Layout::Keep;
  /// Initial `mode` attribute of new steps: invert, recompute or store.
  std::string mode = "invert";
  /// Form steps whether or not they save anything (small tests).
  bool forceSteps = false;
  /// Largest condition number of a weight that is undone by a solve.
  double maxCondition = 1e3;
  /// Along a chain, how much undoing may enlarge rounding errors (in float32;
  /// in float64 100 times as much); where it would be more, the chain starts
  /// anew from a kept value. Where weights are solved for, maxCondition counts
  /// if it is larger.
  double maxGrowth = 32;
  /// Add up what training keeps (Method::accounting).
  bool analyze = false;
  /// Undo activations that saturate as well (sigmoid, tanh, exp, ...), as far
  /// as the values of each call allow.
  bool saturating = false;
  /// Most nodes that a backward search for a conditioner may visit.
  int64_t maxConditioner = 400;
  /// Paths of submodules that the user declares to be invertible
  /// (--invertible=...), beside those that export an `inverse`.
  std::vector<std::string> invertible;
  /// Sample inputs (--input), in the order of the method's arguments, without
  /// self. A name `decode.z` belongs to the method decode; names without a dot
  /// to every method that has none of its own.
  std::vector<SampleInput> sampleInputs;
};

} // namespace inv::opt
