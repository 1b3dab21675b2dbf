// inv-bench: what a training step costs under inv-opt and under what a user
// could pick instead. benchmarks/bench.py calls it; scripts/bench calls that.
#include "Kernels.h"
#include "Training.h"

#include <CLI/CLI.hpp>
#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>

#include <cstdio>
#include <exception>

#include <malloc.h>

#include "inv/CountingAllocator.h"

namespace {

/// Freed memory stays in the process, so that times hold no page faults.
void keepHeap() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

int run(int argc, char** argv) {
  CLI::App app("Measures training steps and kernels; prints JSON.",
               "inv-bench");
  app.require_subcommand(1);
  inv::bench::TrainingOptions training;
  auto* train =
      app.add_subcommand("train", "Training steps, algorithms in turn");
  train->add_option("--original", training.original)->required();
  train->add_option("--rewritten", training.rewritten);
  train->add_option("--input", training.input, "Sizes, batch first")
      ->delimiter(',')
      ->required();
  train
      ->add_option("--algorithms", training.algorithms,
                   "plain, checkpoint, memcnn, revtorch, pinverse, invert, "
                   "recompute, store; the first is what gradients are "
                   "compared with")
      ->delimiter(',')
      ->required();
  train->add_option("--steps", training.steps, "Timed steps of each")
      ->check(CLI::PositiveNumber);
  train->add_option("--seconds", training.seconds,
                    "Fewer steps (at least 5) where all take longer");
  train->add_flag("--default-malloc", training.defaultMalloc,
                  "Let freed memory go back to the system");
  auto* kernels = app.add_subcommand("kernels", "Bytes per second");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!training.defaultMalloc)
    keepHeap();
  // Plain is what the archive says, in every call; see docs/benchmarks.md.
  torch::jit::setGraphExecutorOptimize(false);
  nlohmann::json result;
  if (kernels->parsed()) {
    result = inv::bench::measureKernels();
  } else {
    inv::CountingAllocator::install();
    result = inv::bench::measureTraining(training);
  }
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "inv-bench: %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "inv-bench: %s\n", error.what());
  }
  return 2;
}
