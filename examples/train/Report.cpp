#include "Report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace inv::train {

std::vector<double> Curve::epochLosses() const {
  std::vector<double> losses;
  for (size_t epoch = 0; epoch < starts_.size(); ++epoch) {
    const size_t from = starts_[epoch];
    const size_t to =
        epoch + 1 < starts_.size() ? starts_[epoch + 1] : steps_.size();
    double sum = 0;
    for (size_t i = from; i < to; ++i)
      sum += steps_[i].loss;
    losses.push_back(sum / static_cast<double>(to - from));
  }
  return losses;
}

double Curve::medianSeconds() const {
  std::vector<double> seconds;
  for (const StepResult& step : steps_)
    seconds.push_back(step.seconds);
  const auto middle =
      seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

int64_t Curve::peakBytes() const {
  int64_t peak = 0;
  for (const StepResult& step : steps_)
    peak = std::max(peak, step.peakBytes);
  return peak;
}

nlohmann::json toJson(const Curve& curve) {
  return {{"epoch_losses", curve.epochLosses()},
          {"peak_bytes", curve.peakBytes()},
          {"step_seconds", curve.medianSeconds()},
          {"conditioner_evaluations", curve.last().evaluations},
          {"conditioner_evaluations_forward", curve.last().evaluationsForward},
          {"training_steps", curve.steps().size()}};
}

nlohmann::json toJson(const std::vector<MemorySample>& samples) {
  nlohmann::json list = nlohmann::json::array();
  for (const MemorySample& sample : samples)
    list.push_back({std::round(sample.seconds * 1e6) / 1e6, sample.bytes});
  return list;
}

std::string lossNote(double loss) {
  char text[32];
  std::snprintf(text, sizeof(text), "loss %.4f", loss);
  return text;
}

void writeFile(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.flush();
  if (!file)
    throw std::runtime_error("cannot write " + path);
}

} // namespace inv::train
