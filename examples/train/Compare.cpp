#include "Compare.h"

#include "Progress.h"
#include "Report.h"
#include "Trainer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace inv::train {
namespace {

/// Calls on untrained weights whose results are compared one by one. Several,
/// since an executor may run other code from the second call on.
constexpr int kFirstCalls = 3;

/// The tensor that differs most, and how much: the largest difference of an
/// element over the reference's largest element.
struct Distance {
  double worst = 0;
  std::string tensor;
};

double relativeDistance(const at::Tensor& value, const at::Tensor& reference) {
  const at::Tensor exact = reference.to(at::kDouble);
  const double scale = exact.abs().max().item<double>();
  const double off = (value.to(at::kDouble) - exact).abs().max().item<double>();
  if (off == 0)
    return 0;
  // Also where one of them is not a number.
  if (!(off / scale < std::numeric_limits<double>::infinity()))
    return std::numeric_limits<double>::infinity();
  return off / scale;
}

class Comparison {
public:
  explicit Comparison(const Options& options)
      : options_(options), original_(options.models[0], options),
        rewritten_(options.models[1], options),
        digits_(loadDigits(options.data, original_.dtype())) {
    pair(original_.parameters(), rewritten_.parameters(), "parameters");
    pair(original_.buffers(), rewritten_.buffers(), "buffers");
  }

  int run(nlohmann::json& result);

private:
  static void pair(const NamedTensors& a, const NamedTensors& b,
                   const char* what);
  static Distance gradientDistance(const Trainer& reference,
                                   const Trainer& other);
  void compareFirstCalls();
  void compareWithDouble();
  void traceMemory();
  void train();
  void compareTrained();
  int check() const;
  nlohmann::json report() const;
  bool fail(const std::string& message) const;

  at::Tensor images(const at::Tensor& batch) const {
    return digits_.trainImages.index_select(0, batch);
  }
  at::Tensor labels(const at::Tensor& batch) const {
    return digits_.trainLabels.index_select(0, batch);
  }

  const Options& options_;
  Trainer original_, rewritten_;
  Digits digits_;

  bool forwardEqual_ = true, lossEqual_ = true, buffersEqual_ = true;
  Distance firstGradients_, trainedGradients_;
  /// Of both, to the original in float64; absent where that run is another
  /// one (dropout draws other masks).
  std::optional<double> originalToDouble_, rewrittenToDouble_;
  Curve originalCurve_, rewrittenCurve_;
  std::vector<MemorySample> originalMemory_, rewrittenMemory_;
  double originalAccuracy_ = 0, rewrittenAccuracy_ = 0;
};

/// Both must have the same names, sizes and values, in any order.
void Comparison::pair(const NamedTensors& a, const NamedTensors& b,
                      const char* what) {
  const std::map<std::string, at::Tensor> left(a.begin(), a.end()),
      right(b.begin(), b.end());
  const auto differ = [&](const std::string& name) {
    throw std::runtime_error(std::string("the two models differ in their ") +
                             what + ": " + name);
  };
  for (const auto& [name, tensor] : left)
    if (!right.count(name) || !at::equal(tensor, right.at(name)))
      differ(name);
  for (const auto& [name, tensor] : right)
    if (!left.count(name))
      differ(name);
}

Distance Comparison::gradientDistance(const Trainer& reference,
                                      const Trainer& other) {
  const std::map<std::string, at::Tensor> others(other.parameters().begin(),
                                                 other.parameters().end());
  Distance distance;
  for (const auto& [name, parameter] : reference.parameters()) {
    const double off =
        relativeDistance(others.at(name).grad(), parameter.grad());
    if (off > distance.worst)
      distance = {off, name};
  }
  return distance;
}

void Comparison::compareFirstCalls() {
  const auto batches = batchesOfEpoch(digits_.trainImages.size(0),
                                      options_.batch, options_.seed, 0);
  for (int call = 0; call < kFirstCalls; ++call) {
    const at::Tensor& batch =
        batches[static_cast<size_t>(call) % batches.size()];
    const at::Tensor x = images(batch), t = labels(batch);
    const uint64_t seed = options_.seed + static_cast<uint64_t>(call);
    std::string expected, actual;
    const StepResult a = original_.forwardBackward(x, t, seed, &expected);
    const StepResult b = rewritten_.forwardBackward(x, t, seed, &actual);
    forwardEqual_ &= expected == actual;
    originalCurve_.add(a);
    rewrittenCurve_.add(b);
    lossEqual_ &= a.loss == b.loss;
    const Distance distance = gradientDistance(original_, rewritten_);
    if (distance.worst > firstGradients_.worst)
      firstGradients_ = distance;
  }
  const std::map<std::string, at::Tensor> others(rewritten_.buffers().begin(),
                                                 rewritten_.buffers().end());
  for (const auto& [name, buffer] : original_.buffers())
    buffersEqual_ &= at::equal(buffer, others.at(name));
}

/// How far rounding alone moves the gradients of either model: a measure for
/// the distance between the two.
void Comparison::compareWithDouble() {
  if (original_.dtype() != at::kFloat)
    return;
  Trainer exact(options_.models[0], options_);
  exact.toDouble();
  const at::Tensor batch = batchesOfEpoch(digits_.trainImages.size(0),
                                          options_.batch, options_.seed, 0)[0];
  const at::Tensor x = images(batch), t = labels(batch);
  const double loss =
      exact.forwardBackward(x.to(at::kDouble), t, options_.seed).loss;
  const StepResult a = original_.forwardBackward(x, t, options_.seed);
  rewritten_.forwardBackward(x, t, options_.seed);
  if (std::abs(a.loss - loss) > 1e-4 * std::abs(loss))
    return;
  originalToDouble_ = gradientDistance(exact, original_).worst;
  rewrittenToDouble_ = gradientDistance(exact, rewritten_).worst;
}

void Comparison::traceMemory() {
  const at::Tensor batch = batchesOfEpoch(digits_.trainImages.size(0),
                                          options_.batch, options_.seed, 0)[0];
  const at::Tensor x = images(batch), t = labels(batch);
  for (bool rewritten : {false, true}) {
    Trainer& trainer = rewritten ? rewritten_ : original_;
    MemoryTrace trace;
    trainer.forwardBackward(x, t, options_.seed);
    (rewritten ? rewrittenMemory_ : originalMemory_) = trace.finish();
  }
}

void Comparison::train() {
  const int64_t perEpoch = digits_.trainImages.size(0) / options_.batch;
  const int64_t steps = perEpoch * options_.epochs;
  Progress progress("training both", steps, options_.progress);
  int64_t step = 0;
  for (int epoch = 0; epoch < options_.epochs; ++epoch) {
    originalCurve_.startEpoch();
    rewrittenCurve_.startEpoch();
    for (const at::Tensor& batch :
         batchesOfEpoch(digits_.trainImages.size(0), options_.batch,
                        options_.seed, epoch)) {
      const at::Tensor x = images(batch), t = labels(batch);
      const uint64_t seed = options_.seed + static_cast<uint64_t>(step);
      // Who goes first changes, so that neither always finds a warm cache.
      for (bool rewritten : {step % 2 == 1, step % 2 == 0}) {
        Trainer& trainer = rewritten ? rewritten_ : original_;
        Curve& curve = rewritten ? rewrittenCurve_ : originalCurve_;
        curve.add(trainer.forwardBackward(x, t, seed));
        trainer.update(learningRate(options_, step, steps));
      }
      ++step;
      progress.advance(lossNote(originalCurve_.last().loss) + " / " +
                       lossNote(rewrittenCurve_.last().loss));
    }
  }
}

/// Training moves the two apart, since small differences grow. So that the
/// gradients at the end can be compared, the rewritten model gets the
/// original's weights.
void Comparison::compareTrained() {
  originalAccuracy_ =
      original_.accuracy(digits_.testImages, digits_.testLabels);
  rewrittenAccuracy_ =
      rewritten_.accuracy(digits_.testImages, digits_.testLabels);
  const auto copy = [](const NamedTensors& from, const NamedTensors& to) {
    at::NoGradGuard noGrad;
    const std::map<std::string, at::Tensor> target(to.begin(), to.end());
    for (const auto& [name, tensor] : from)
      at::Tensor(target.at(name)).copy_(tensor);
  };
  copy(original_.parameters(), rewritten_.parameters());
  copy(original_.buffers(), rewritten_.buffers());
  const at::Tensor batch = batchesOfEpoch(digits_.trainImages.size(0),
                                          options_.batch, options_.seed, 0)[0];
  for (Trainer* trainer : {&original_, &rewritten_})
    trainer->forwardBackward(images(batch), labels(batch), options_.seed);
  trainedGradients_ = gradientDistance(original_, rewritten_);
}

bool Comparison::fail(const std::string& message) const {
  std::fprintf(stderr, "inv-train: %s: %s\n", options_.models[1].c_str(),
               message.c_str());
  return true;
}

int Comparison::check() const {
  bool failed = false;
  if (!forwardEqual_)
    failed = fail("the forward results are not bit-equal to the original's");
  if (!lossEqual_)
    failed = fail("the first losses differ from the original's");
  if (!buffersEqual_)
    failed = fail("buffers (running statistics) differ from the original's");
  if (options_.maxGradientError &&
      !(firstGradients_.worst <= *options_.maxGradientError))
    failed = fail("the gradient of " + firstGradients_.tensor + " is off by " +
                  std::to_string(firstGradients_.worst) + ", relative");
  if (rewritten_.numSteps() < options_.requireSteps)
    failed = fail("has " + std::to_string(rewritten_.numSteps()) +
                  " steps, expected at least " +
                  std::to_string(options_.requireSteps));
  return failed ? 1 : 0;
}

nlohmann::json Comparison::report() const {
  nlohmann::json result;
  result["original"] = toJson(originalCurve_);
  result["original"]["memory"] = toJson(originalMemory_);
  result["rewritten"] = toJson(rewrittenCurve_);
  result["rewritten"]["memory"] = toJson(rewrittenMemory_);
  result["steps"] = rewritten_.numSteps();
  result["forward_bit_equal"] = forwardEqual_;
  result["first_loss_equal"] = lossEqual_;
  result["buffers_bit_equal"] = buffersEqual_;
  result["peak_ratio"] = static_cast<double>(originalCurve_.peakBytes()) /
                         static_cast<double>(rewrittenCurve_.peakBytes());
  result["gradient_error"] = {{"first", firstGradients_.worst},
                              {"first_tensor", firstGradients_.tensor}};
  if (originalToDouble_) {
    result["gradient_error"]["original_to_float64"] = *originalToDouble_;
    result["gradient_error"]["rewritten_to_float64"] = *rewrittenToDouble_;
  }
  if (options_.epochs == 0)
    return result;
  result["gradient_error"]["trained"] = trainedGradients_.worst;
  result["gradient_error"]["trained_tensor"] = trainedGradients_.tensor;
  result["original"]["accuracy"] = originalAccuracy_;
  result["rewritten"]["accuracy"] = rewrittenAccuracy_;
  result["time_ratio"] =
      rewrittenCurve_.medianSeconds() / originalCurve_.medianSeconds();
  double lossDistance = 0;
  for (size_t i = 0; i < originalCurve_.steps().size(); ++i)
    lossDistance =
        std::max(lossDistance, std::abs(originalCurve_.steps()[i].loss -
                                        rewrittenCurve_.steps()[i].loss));
  result["largest_loss_difference"] = lossDistance;
  return result;
}

int Comparison::run(nlohmann::json& result) {
  compareFirstCalls();
  compareWithDouble();
  traceMemory();
  if (options_.epochs > 0) {
    train();
    compareTrained();
  }
  result = report();
  return check();
}

} // namespace

int compare(const Options& options, nlohmann::json& result) {
  return Comparison(options).run(result);
}

} // namespace inv::train
