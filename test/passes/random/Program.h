// Random reversible networks with known structure: what was planted must be
// found, and training must not notice.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "passes/Model.h"

#include <torch/csrc/jit/api/module.h>

namespace inv::opt::testing {

/// One block of a network, as lines of TorchScript on the streams a and b.
struct PlantedBlock {
  std::string kind; ///< for messages: "additive", "affine", ...
  std::string code; ///< lines of Python, each ending in a newline
  int couplings = 0;
  /// A near miss: what follows it towards the output is still found, but the
  /// chain may end here, so counts are upper bounds.
  bool nearMiss = false;
};

/// A network: splits its input, runs the blocks, joins. Copyable, so that a
/// failing one can be reduced block by block.
struct Program {
  uint64_t seed = 0;
  int64_t width = 4; ///< of one stream
  int weights = 0;   ///< parameters w0, w1, ... [width, width], orthogonal
  int names = 0;     ///< local variables with a number
  std::string epilogue;
  std::vector<PlantedBlock> blocks;

  int couplings() const;
  bool hasNearMiss() const;
  std::string source() const;
  /// Parameters in float64 and buffers (masks m and n, permutations p and q, r
  /// that is none), the same for the same program.
  torch::jit::Module module() const;
};

Program randomProgram(uint64_t seed);

/// Its method, inlined, ready for a pipeline.
Model modelOf(const Program& program);

} // namespace inv::opt::testing
