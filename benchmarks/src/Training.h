// Training steps of one network under several algorithms, in turn.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace inv::bench {

struct TrainingOptions {
  std::string original, rewritten; ///< archives; the second may be missing
  std::vector<int64_t> input;      ///< sizes of the input, batch first
  /// plain, checkpoint, memcnn, revtorch, pinverse; invert, recompute, store
  /// (modes of the rewritten archive's steps).
  std::vector<std::string> algorithms;
  int64_t steps = 30; ///< timed, of each algorithm
  /// Fewer steps, but at least 5, where all of them together take longer.
  double seconds = 120;
  bool defaultMalloc = false;
};

/// For each algorithm: exact peak bytes of a step (forward and backward, above
/// the level before it, gradients allocated), evaluations of branches, seconds
/// of each timed step, and the distance of all gradients to plain's. All in one
/// process, the algorithms in turn step by step.
nlohmann::json measureTraining(const TrainingOptions& options);

} // namespace inv::bench
