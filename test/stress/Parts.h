// The parts of random programs: steps of every form, and the same in plain
// autograd.
#pragma once

#include "../runtime/Steps.h"

#include <ATen/core/Generator.h>

#include <random>

namespace inv::test {

/// Numbers of one program. All but the masks of dropout come from it, so that
/// programs on several threads do not disturb each other.
class Random {
public:
  explicit Random(uint64_t seed);
  size_t pick(size_t n) { return engine_() % n; }
  bool chance(size_t in) { return pick(in) == 0; }
  uint64_t seed() { return engine_(); }
  at::Tensor normal(c10::IntArrayRef sizes, at::ScalarType dtype);

private:
  std::mt19937_64 engine_;
  at::Generator generator_;
};

/// The two streams of a program.
struct States {
  at::Tensor a, b;
};

/// A step that takes both streams and gives both, and what it adds to a loss.
struct Part {
  std::string name;
  torch::jit::Module step;
  Tensors captures; ///< parameters that need a gradient, and buffers
  /// With plain autograd if `plain`.
  std::function<States(const States&, bool plain, Tensors& sides)> run;
};

/// What a program may hold.
struct Allowed {
  bool dropout = true; ///< not where several threads draw
};

/// One of the forms: sums with all sorts of conditioners, affine couplings,
/// bijections, recompute steps, steps inside of steps. Each class of step is
/// made once in a process.
Part makePart(Random& random, at::ScalarType dtype, const Allowed& allowed);

} // namespace inv::test
