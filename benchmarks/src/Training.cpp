#include "Training.h"

#include "Algorithms.h"
#include "Net.h"

#include "inv/CountingAllocator.h"
#include "inv/Runtime.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>

namespace inv::bench {
namespace {

using Forward = std::function<at::Tensor(const at::Tensor&)>;
using Gradients = std::map<std::string, at::Tensor>;

double secondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

struct Algorithm {
  std::string name;
  Net* net;
  Forward forward;
  std::vector<double> seconds = {}, forwardSeconds = {};
  int64_t peakBytes = 0, forwardBytes = 0, evaluations = 0;
  double gradientError = 0;
  bool forwardEqual = true;
};

class Bench {
public:
  explicit Bench(const TrainingOptions& options)
      : options_(options), original_(options.original) {
    if (!options.rewritten.empty())
      rewritten_.emplace(options.rewritten);
    at::manual_seed(1);
    input_ = at::randn(options.input).requires_grad_();
    for (const std::string& name : options.algorithms)
      add(name);
  }

  nlohmann::json run() {
    for (Algorithm& a : algorithms_)
      check(a);
    const int64_t steps = affordableSteps();
    for (int64_t i = 0; i < steps; ++i)
      for (Algorithm& a : algorithms_)
        a.seconds.push_back(timedStep(a));
    for (Algorithm& a : algorithms_)
      if (a.name == "plain")
        for (int64_t i = 0; i < steps; ++i)
          a.forwardSeconds.push_back(secondsOf([&] { a.forward(input_); }));
    return report();
  }

private:
  void add(const std::string& name) {
    using Chain = at::Tensor (*)(const std::vector<Block>&, at::Tensor);
    static const std::map<std::string, Chain> kByHand = {
        {"checkpoint", &checkpointed},
        {"memcnn", &memcnn},
        {"revtorch", &revtorch},
        {"pinverse", &pinverse}};
    if (name == "plain") {
      algorithms_.push_back({name, &original_, [this](const at::Tensor& x) {
                               return original_.forward(x);
                             }});
    } else if (const auto found = kByHand.find(name); found != kByHand.end()) {
      const Chain chain = found->second;
      algorithms_.push_back(
          {name, &original_, [this, chain](const at::Tensor& x) {
             return original_.head(
                 chain(original_.blocks(), original_.stem(x)));
           }});
    } else if (name == "invert" || name == "recompute" || name == "store") {
      if (!rewritten_)
        throw std::runtime_error(name + " needs --rewritten");
      algorithms_.push_back({name, &*rewritten_, [this](const at::Tensor& x) {
                               return rewritten_->forward(x);
                             }});
    } else {
      throw std::runtime_error("no algorithm named " + name);
    }
  }

  /// What is not timed: that setting a mode costs attribute writes.
  void prepare(Algorithm& a) {
    if (a.net != &original_)
      a.net->setMode(a.name);
    zeroGradients(*a.net);
  }

  void zeroGradients(Net& net) {
    for (auto [name, parameter] : net.parameters())
      parameter.mutable_grad().zero_();
    input_.mutable_grad() = at::zeros_like(input_);
  }

  at::Tensor step(Algorithm& a) {
    const at::Tensor out = a.forward(input_);
    if (!cotangent_.defined())
      cotangent_ = at::randn(out.sizes());
    at::Tensor result = out.detach();
    torch::autograd::backward({out}, {cotangent_});
    return result;
  }

  double timedStep(Algorithm& a) {
    prepare(a);
    return secondsOf([&] { step(a); });
  }

  /// One step that is looked at: values, gradients, bytes, evaluations. A first
  /// call before, since what is made once is not a step's.
  void check(Algorithm& a) {
    prepare(a);
    step(a);
    prepare(a);
    Evaluations::count = 0;
    resetStats();
    const int64_t level = CountingAllocator::current();
    CountingAllocator::resetPeak();
    at::Tensor out;
    {
      at::Tensor y = a.forward(input_);
      a.forwardBytes = CountingAllocator::current() - level;
      out = y.detach();
      torch::autograd::backward({y}, {cotangent_});
    }
    a.peakBytes = CountingAllocator::peak() - level;
    a.evaluations =
        a.net == &original_ ? Evaluations::count : stats().conditioners;
    Gradients gradients;
    for (const auto& [name, parameter] : a.net->parameters())
      gradients[name] = parameter.grad().clone();
    gradients["<input>"] = input_.grad().clone();
    if (!reference_) {
      reference_ = gradients;
      expected_ = out;
    }
    a.forwardEqual = at::equal(out, expected_);
    for (const auto& [name, expected] : *reference_) {
      const double scale = expected.abs().max().item<double>();
      const double off =
          (gradients.at(name) - expected).abs().max().item<double>();
      a.gradientError =
          std::max(a.gradientError, scale > 0 ? off / scale : off);
    }
  }

  int64_t affordableSteps() {
    double round = 0;
    for (Algorithm& a : algorithms_)
      round += timedStep(a);
    const auto most = static_cast<int64_t>(options_.seconds / round);
    return std::max<int64_t>(5, std::min(options_.steps, most));
  }

  nlohmann::json report() const {
    nlohmann::json result;
    result["input"] = options_.input;
    result["threads"] = at::get_num_threads();
    result["heap"] = options_.defaultMalloc ? "default" : "kept";
    result["steps_in_archive"] = rewritten_ ? rewritten_->numSteps() : 0;
    for (const Algorithm& a : algorithms_) {
      nlohmann::json& one = result["algorithms"][a.name];
      one["peak_bytes"] = a.peakBytes;
      one["bytes_after_forward"] = a.forwardBytes;
      one["evaluations"] = a.evaluations;
      one["seconds"] = a.seconds;
      if (!a.forwardSeconds.empty())
        one["forward_seconds"] = a.forwardSeconds;
      one["gradient_error"] = a.gradientError;
      one["forward_bit_equal"] = a.forwardEqual;
    }
    return result;
  }

  const TrainingOptions& options_;
  Net original_;
  std::optional<Net> rewritten_;
  std::vector<Algorithm> algorithms_;
  at::Tensor input_, cotangent_, expected_;
  std::optional<Gradients> reference_;
};

} // namespace

nlohmann::json measureTraining(const TrainingOptions& options) {
  return Bench(options).run();
}

} // namespace inv::bench
