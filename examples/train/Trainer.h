// A TorchScript model, its optimizer, and a training step.
#pragma once

#include "Options.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>

namespace torch::optim {
class Optimizer;
}

namespace inv::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// One forward pass, loss and backward pass.
struct StepResult {
  double loss = 0;
  double seconds = 0;
  /// The most bytes of tensors above the level before the step.
  int64_t peakBytes = 0;
  /// Conditioner evaluations (inv::stats): in forward, and altogether.
  int64_t evaluationsForward = 0, evaluations = 0;
};

class Trainer {
public:
  /// Loads the archive, and gives every parameter a gradient of zeros, so that
  /// memory measured later holds no growth of gradients. Throws
  /// std::runtime_error with one message where the archive cannot be loaded.
  Trainer(const std::string& path, const Options& options);
  ~Trainer();

  /// Turns parameters, buffers and gradients into float64.
  void toDouble();
  at::ScalarType dtype() const;
  const NamedTensors& parameters() const { return parameters_; }
  const NamedTensors& buffers() const { return buffers_; }
  /// How many steps inv-opt wrote into the model.
  int64_t numSteps() const;

  /// Gradients are zeroed first. `seed` goes to the random number generator:
  /// equal seeds, equal dropout. Where `output` is given, it gets the bytes
  /// of the model's result (not a tensor, which would count as memory in use).
  StepResult forwardBackward(const at::Tensor& images, const at::Tensor& labels,
                             uint64_t seed, std::string* output = nullptr);
  /// The optimizer's update, at this learning rate.
  void update(double lr);
  /// Share of the images that are put into their class. The model is in eval
  /// mode while this runs; a traced model does not know the difference.
  double accuracy(const at::Tensor& images, const at::Tensor& labels);

private:
  void collect();

  torch::jit::Module module_;
  NamedTensors parameters_, buffers_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

/// Linear warm-up over the first tenth, then half a cosine to zero.
double learningRate(const Options& options, int64_t step, int64_t steps);

} // namespace inv::train
