#include "Options.h"

#include <CLI/CLI.hpp>

namespace inv::train {

std::optional<int> parseOptions(int argc, char** argv, Options& options) {
  CLI::App app{"Trains a TorchScript model on 8x8 digits, or an original and "
               "its rewritten form side by side"};
  app.add_option("model", options.models,
                 "archive to train; with --compare the original and the "
                 "rewritten archive")
      ->required()
      ->expected(1, 2);
  app.add_flag("--compare", options.compare,
               "train two models on the same batches, and compare them");
  app.add_option("--data", options.data,
                 "digits.bin of examples/data/digits.py")
      ->required();
  app.add_option("--epochs", options.epochs,
                 "with --compare 0: compare a few calls only")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--batch", options.batch)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--lr", options.lr, "largest learning rate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--optimizer", options.optimizer)
      ->check(CLI::IsMember({"adamw", "sgd"}))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of batches and dropout")
      ->capture_default_str();
  app.add_flag("--profiling-executor", options.profilingExecutor,
               "run under TorchScript's profiling executor");
  app.add_flag("--default-malloc", options.defaultMalloc,
               "give freed memory back to the system");
  app.add_flag(
      "--progress", options.progress,
      "show the progress bar even where standard error is no terminal");
  app.add_option("--json", options.json, "write the results to this file");
  app.add_option("--memory-trace", options.memoryTrace,
                 "write bytes over time of one training step to this file");
  app.add_option("--dump-grads", options.dumpGrads,
                 "write the first step's gradients to this file; in Python: "
                 "dict(torch.load(FILE))");
  app.add_option("--max-gradient-error", options.maxGradientError,
                 "with --compare: exit 1 above this relative difference");
  app.add_option("--require-steps", options.requireSteps,
                 "with --compare: exit 1 where the rewritten model has fewer "
                 "steps");
  try {
    app.parse(argc, argv);
    if (!options.compare && options.epochs == 0)
      throw CLI::ValidationError("--epochs", "must be 1 or more");
    const size_t wanted = options.compare ? 2 : 1;
    if (options.models.size() != wanted)
      throw CLI::ValidationError(
          "model", options.compare ? "--compare takes two archives"
                                   : "takes one archive (or --compare two)");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return std::nullopt;
}

} // namespace inv::train
