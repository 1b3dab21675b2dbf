// The command line of inv-train.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace inv::train {

struct Options {
  /// One archive, or with --compare two: the original, then the rewritten.
  std::vector<std::string> models;
  bool compare = false;
  std::string data; ///< see examples/data/digits.py

  int epochs = 8;
  int64_t batch = 64;
  double lr = 3e-3; ///< at the top of the schedule
  std::string optimizer = "adamw";
  uint64_t seed = 0;

  /// TorchScript's profiling executor, which rewrites a model between calls.
  /// Off: every call runs the graph as it is in the archive.
  bool profilingExecutor = false;
  /// Let freed memory go back to the system, as malloc does by default. Off:
  /// the process keeps it, and times hold no page faults.
  bool defaultMalloc = false;
  bool progress = false; ///< draw the bar even if this is no terminal

  std::string json;        ///< file for the results
  std::string memoryTrace; ///< file for bytes over time of one training step
  std::string dumpGrads;   ///< file for the gradients of the first step

  /// With --compare: exit 1 where a gradient of the first steps differs by
  /// more than this, relative to the tensor's largest element.
  std::optional<double> maxGradientError;
  /// With --compare: exit 1 where the rewritten model has fewer steps.
  int64_t requireSteps = 0;
};

/// Fills `options`; an exit code where the program should end at once
/// (--help, a usage error), already reported.
std::optional<int> parseOptions(int argc, char** argv, Options& options);

} // namespace inv::train
