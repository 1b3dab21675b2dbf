#include "Trainer.h"

#include "inv/Abi.h"
#include "inv/CountingAllocator.h"
#include "inv/Runtime.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include <torch/csrc/jit/serialization/import.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

namespace inv::train {
namespace {

torch::jit::Module load(const std::string& path) {
  try {
    return torch::jit::load(path);
  } catch (const c10::Error& error) {
    throw std::runtime_error("cannot load " + path + ": " +
                             error.what_without_backtrace());
  }
}

std::unique_ptr<torch::optim::Optimizer>
makeOptimizer(const NamedTensors& named, const Options& options) {
  std::vector<at::Tensor> parameters;
  for (const auto& [name, parameter] : named)
    parameters.push_back(parameter);
  if (options.optimizer == "sgd")
    return std::make_unique<torch::optim::SGD>(
        parameters, torch::optim::SGDOptions(options.lr).momentum(0.9));
  return std::make_unique<torch::optim::AdamW>(
      parameters, torch::optim::AdamWOptions(options.lr).weight_decay(0.01));
}

std::string bytesOf(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().contiguous();
  return {static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()};
}

} // namespace

Trainer::Trainer(const std::string& path, const Options& options)
    : module_(load(path)) {
  module_.train();
  collect();
  if (parameters_.empty())
    throw std::runtime_error(path + " has no parameters to train");
  optimizer_ = makeOptimizer(parameters_, options);
}

Trainer::~Trainer() = default;

void Trainer::collect() {
  parameters_.clear();
  buffers_.clear();
  for (const auto& p : module_.named_parameters())
    parameters_.emplace_back(p.name, p.value);
  for (const auto& b : module_.named_buffers())
    buffers_.emplace_back(b.name, b.value);
  for (auto& [name, parameter] : parameters_)
    parameter.mutable_grad() = at::zeros_like(parameter);
}

void Trainer::toDouble() {
  for (auto& [name, parameter] : parameters_)
    parameter.mutable_grad().reset();
  // Module::to would convert integers, too: index tensors stay as they are.
  const auto convert = [](const at::Tensor& tensor) {
    if (tensor.is_floating_point())
      tensor.set_data(tensor.to(at::kDouble));
  };
  for (const at::Tensor& parameter : module_.parameters())
    convert(parameter);
  for (const at::Tensor& buffer : module_.buffers())
    convert(buffer);
  collect();
}

at::ScalarType Trainer::dtype() const {
  return parameters_.front().second.scalar_type();
}

int64_t Trainer::numSteps() const {
  int64_t steps = 0;
  for (const auto& child : module_.named_children())
    steps += child.name.starts_with(abi::kStepPrefix);
  return steps;
}

StepResult Trainer::forwardBackward(const at::Tensor& images,
                                    const at::Tensor& labels, uint64_t seed,
                                    std::string* output) {
  for (auto& [name, parameter] : parameters_)
    parameter.mutable_grad().zero_();
  at::manual_seed(seed);
  resetStats();
  const int64_t level = CountingAllocator::current();
  CountingAllocator::resetPeak();

  StepResult result;
  const auto start = std::chrono::steady_clock::now();
  {
    at::Tensor scores = module_.forward({images}).toTensor();
    result.evaluationsForward = stats().conditioners;
    if (output)
      *output = bytesOf(scores);
    at::Tensor loss = at::nll_loss(at::log_softmax(scores, 1), labels);
    scores.reset();
    loss.backward();
    result.loss = loss.item<double>();
  }
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - start;
  result.seconds = elapsed.count();
  result.peakBytes = CountingAllocator::peak() - level;
  result.evaluations = stats().conditioners;
  return result;
}

void Trainer::update(double lr) {
  for (auto& group : optimizer_->param_groups())
    group.options().set_lr(lr);
  optimizer_->step();
}

double Trainer::accuracy(const at::Tensor& images, const at::Tensor& labels) {
  at::NoGradGuard noGrad;
  at::manual_seed(0);
  module_.eval();
  const at::Tensor scores = module_.forward({images}).toTensor();
  module_.train();
  return scores.argmax(1).eq(labels).to(at::kDouble).mean().item<double>();
}

double learningRate(const Options& options, int64_t step, int64_t steps) {
  const double done =
      static_cast<double>(step + 1) / static_cast<double>(steps);
  const double warmUp = std::min(1.0, done / 0.1);
  return options.lr * warmUp * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

} // namespace inv::train
