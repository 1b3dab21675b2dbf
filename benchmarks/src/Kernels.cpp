#include "Kernels.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace inv::bench {
namespace {

constexpr int64_t kElements = int64_t(1) << 25; // 128 MiB of float32
constexpr int kRounds = 15;

struct Case {
  std::string name;
  int64_t bytesPerElement; ///< that have to be moved, in float32
  std::function<void()> run;
  std::vector<double> seconds;
};

/// The runtime's kernels, reached as the operators that they are.
void call(const char* name, const at::Tensor& a, const at::Tensor& b) {
  auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  torch::jit::Stack stack{a, b, 1.0, 1.0};
  op.callBoxed(stack);
}

} // namespace

nlohmann::json measureKernels() {
  at::NoGradGuard noGrad;
  at::Tensor x = at::randn({kElements}), f = at::randn({kElements}),
             y = at::empty({kElements});
  std::vector<Case> cases;
  const auto add = [&](std::string name, int64_t bytes,
                       std::function<void()> run) {
    cases.push_back({std::move(name), bytes, std::move(run), {}});
  };
  add("copy", 8, [&] { y.copy_(x); });
  add("y = x + f, written into f", 12,
      [&] { call("inv::scaled_add_into_", f, x); });
  add("x = y - f, written into y", 12,
      [&] { call("inv::scaled_add_inverse_", y, f); });
  add("ATen: y += x", 12, [&] { y.add_(x); });
  // What a coupling costs where each half is made contiguous and the results
  // are put together again.
  at::Tensor whole = at::randn({kElements / 64, 64});
  at::Tensor half = at::randn({kElements / 64, 32});
  add("ATen: chunk, contiguous, add, cat", 28, [&] {
    const auto halves = whole.chunk(2, 1);
    const at::Tensor x1 = halves[0].contiguous(), x2 = halves[1].contiguous();
    at::cat({x1.add(half), x2}, 1);
  });
  for (int round = 0; round < kRounds; ++round)
    for (Case& c : cases) {
      const auto start = std::chrono::steady_clock::now();
      c.run();
      const std::chrono::duration<double> elapsed =
          std::chrono::steady_clock::now() - start;
      if (round > 0)
        c.seconds.push_back(elapsed.count());
    }
  nlohmann::json result;
  result["elements"] = kElements;
  for (Case& c : cases) {
    std::sort(c.seconds.begin(), c.seconds.end());
    const double median = c.seconds[c.seconds.size() / 2];
    // The last case works on pieces: per element of the state it is as many.
    result["cases"][c.name] = {
        {"bytes_per_element", c.bytesPerElement},
        {"seconds", median},
        {"gigabytes_per_second",
         static_cast<double>(c.bytesPerElement * kElements) / median / 1e9}};
  }
  return result;
}

} // namespace inv::bench
