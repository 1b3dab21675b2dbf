// What a training run leaves behind, and its form in JSON.
#pragma once

#include "MemoryTrace.h"
#include "Trainer.h"

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace inv::train {

/// The steps of one run, in order.
class Curve {
public:
  void add(const StepResult& step) { steps_.push_back(step); }
  /// What is added from here on is the next epoch.
  void startEpoch() { starts_.push_back(steps_.size()); }

  const std::vector<StepResult>& steps() const { return steps_; }
  const StepResult& last() const { return steps_.back(); }
  /// Mean loss of each epoch, without what was added before the first.
  std::vector<double> epochLosses() const;
  double medianSeconds() const;
  /// The largest peak of any step.
  int64_t peakBytes() const;

private:
  std::vector<StepResult> steps_;
  std::vector<size_t> starts_;
};

nlohmann::json toJson(const Curve& curve);
/// A list of pairs [seconds, bytes].
nlohmann::json toJson(const std::vector<MemorySample>& samples);

/// "loss 0.1234"
std::string lossNote(double loss);

/// Throws std::runtime_error where the file cannot be written.
void writeFile(const std::string& path, const std::string& content);

} // namespace inv::train
