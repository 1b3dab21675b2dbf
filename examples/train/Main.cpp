// inv-train: trains a TorchScript model, plain or rewritten by inv-opt, on
// 8x8 digits; or an original and its rewritten form side by side.
//
// The program links libinv_runtime.so, which is all that a rewritten model
// needs. For the models' sake nothing in it would have to change.
#include "Compare.h"
#include "Digits.h"
#include "Options.h"
#include "Progress.h"
#include "Report.h"
#include "Trainer.h"

#include <cstdio>
#include <exception>

#include <malloc.h>

#include <nlohmann/json.hpp>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/csrc/jit/serialization/pickle.h>

namespace inv::train {
namespace {

void dumpGradients(const Trainer& trainer, const std::string& path) {
  std::vector<c10::IValue> gradients;
  for (const auto& [name, parameter] : trainer.parameters())
    gradients.push_back(c10::ivalue::Tuple::create(name, parameter.grad()));
  const std::vector<char> bytes =
      torch::jit::pickle_save(c10::ivalue::Tuple::create(std::move(gradients)));
  writeFile(path, std::string(bytes.begin(), bytes.end()));
}

/// What --dump-grads and --memory-trace ask for, on the first batch.
void inspectFirstStep(Trainer& trainer, const Digits& digits,
                      const Options& options) {
  const at::Tensor batch = batchesOfEpoch(digits.trainImages.size(0),
                                          options.batch, options.seed, 0)[0];
  const at::Tensor x = digits.trainImages.index_select(0, batch);
  const at::Tensor t = digits.trainLabels.index_select(0, batch);
  if (!options.dumpGrads.empty()) {
    trainer.forwardBackward(x, t, options.seed);
    dumpGradients(trainer, options.dumpGrads);
  }
  if (!options.memoryTrace.empty()) {
    MemoryTrace trace;
    trainer.forwardBackward(x, t, options.seed);
    writeFile(options.memoryTrace, toJson(trace.finish()).dump() + "\n");
  }
}

int trainOne(const Options& options, nlohmann::json& result) {
  Trainer trainer(options.models[0], options);
  const Digits digits = loadDigits(options.data, trainer.dtype());
  inspectFirstStep(trainer, digits, options);

  const int64_t images = digits.trainImages.size(0);
  const int64_t steps = images / options.batch * options.epochs;
  Curve curve;
  Progress progress("training", steps, options.progress);
  std::vector<double> accuracies;
  int64_t step = 0;
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    curve.startEpoch();
    for (const at::Tensor& batch :
         batchesOfEpoch(images, options.batch, options.seed, epoch)) {
      curve.add(
          trainer.forwardBackward(digits.trainImages.index_select(0, batch),
                                  digits.trainLabels.index_select(0, batch),
                                  options.seed + static_cast<uint64_t>(step)));
      trainer.update(learningRate(options, step++, steps));
      progress.advance(lossNote(curve.last().loss));
    }
    accuracies.push_back(
        trainer.accuracy(digits.testImages, digits.testLabels));
    progress.clear();
    std::printf("epoch %d  %s  accuracy %.4f\n", epoch + 1,
                lossNote(curve.epochLosses().back()).c_str(),
                accuracies.back());
    std::fflush(stdout);
  }
  std::printf(
      "steps by inv-opt %ld  peak %.3f MiB  %.2f ms per training step\n",
      static_cast<long>(trainer.numSteps()),
      static_cast<double>(curve.peakBytes()) / (1 << 20),
      curve.medianSeconds() * 1e3);
  result = toJson(curve);
  result["steps"] = trainer.numSteps();
  result["accuracy"] = accuracies.back();
  result["epoch_accuracies"] = accuracies;
  return 0;
}

void printComparison(const nlohmann::json& result) {
  const bool trained = result.contains("time_ratio");
  for (const char* name : {"original", "rewritten"}) {
    const nlohmann::json& side = result[name];
    std::printf("%-10s  peak %8.3f MiB", name,
                side["peak_bytes"].get<double>() / (1 << 20));
    if (trained)
      std::printf("  %7.2f ms per training step  accuracy %.4f",
                  side["step_seconds"].get<double>() * 1e3,
                  side["accuracy"].get<double>());
    std::printf("\n");
  }
  std::printf("steps %ld  peak 1/%.1f", result["steps"].get<long>(),
              result["peak_ratio"].get<double>());
  if (trained)
    std::printf("  time x %.2f", result["time_ratio"].get<double>());
  const nlohmann::json& error = result["gradient_error"];
  std::printf("  gradients off by %.1e", error["first"].get<double>());
  if (trained)
    std::printf(", %.1e once trained", error["trained"].get<double>());
  std::printf("\n");
}

int run(const Options& options) {
  if (!options.defaultMalloc) {
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
  }
  MemoryTrace::install();
  torch::jit::setGraphExecutorOptimize(options.profilingExecutor);

  nlohmann::json result;
  const int code =
      options.compare ? compare(options, result) : trainOne(options, result);
  if (options.compare)
    printComparison(result);
  result["heap"] = options.defaultMalloc ? "default" : "kept";
  result["executor"] = options.profilingExecutor ? "profiling" : "plain";
  result["models"] = options.models;
  if (!options.json.empty())
    writeFile(options.json, result.dump(1) + "\n");
  return code;
}

} // namespace
} // namespace inv::train

int main(int argc, char** argv) {
  inv::train::Options options;
  if (auto code = inv::train::parseOptions(argc, argv, options))
    return *code;
  try {
    return inv::train::run(options);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "inv-train: %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "inv-train: %s\n", error.what());
  }
  return 2;
}
