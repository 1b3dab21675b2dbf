#include "MemoryTrace.h"

#include "inv/CountingAllocator.h"

#include <algorithm>
#include <chrono>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

namespace inv::train {
namespace {

using Clock = std::chrono::steady_clock;

struct Notes {
  bool running = false;
  Clock::time_point start;
  int64_t level = 0;
  std::vector<MemorySample> samples;

  void take() {
    if (running)
      samples.push_back(
          {std::chrono::duration<double>(Clock::now() - start).count(),
           CountingAllocator::current() - level});
  }
};

Notes notes;
c10::DeleterFnPtr innerDeleter = nullptr;

void release(void* data) {
  innerDeleter(data);
  notes.take();
}

/// Hands everything on to the counting allocator.
struct Noting final : c10::Allocator {
  explicit Noting(c10::Allocator* inner) : inner_(inner) {}
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr data = inner_->allocate(bytes);
    const bool ours = data.compare_exchange_deleter(innerDeleter, &release);
    TORCH_INTERNAL_ASSERT(ours, "the counting allocator uses one deleter");
    notes.take();
    return data;
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }

private:
  c10::Allocator* inner_;
};

} // namespace

void MemoryTrace::install() {
  if (innerDeleter)
    return;
  CountingAllocator::install();
  auto* inner = c10::GetAllocator(c10::DeviceType::CPU);
  innerDeleter = inner->raw_deleter();
  static auto* noting = new Noting(inner); // tensors may outlive main()
  constexpr uint8_t kPriority = 255;
  c10::SetAllocator(c10::DeviceType::CPU, noting, kPriority);
}

MemoryTrace::MemoryTrace() {
  notes.samples.clear();
  notes.samples.reserve(1 << 16);
  notes.level = CountingAllocator::current();
  notes.start = Clock::now();
  notes.running = true;
  notes.take();
}

MemoryTrace::~MemoryTrace() { notes.running = false; }

std::vector<MemorySample> MemoryTrace::finish(size_t limit) {
  notes.take();
  notes.running = false;
  auto& all = notes.samples;
  if (all.size() <= limit)
    return std::move(all);
  const double end = all.back().seconds;
  const size_t pairs = limit / 2;
  const auto stretches = static_cast<double>(pairs);
  const auto less = [](const MemorySample& a, const MemorySample& b) {
    return a.bytes < b.bytes;
  };
  std::vector<MemorySample> kept;
  for (auto from = all.begin(); from != all.end();) {
    const double slot = std::min(from->seconds / end, 1.0) * stretches;
    const double until =
        (static_cast<double>(static_cast<int64_t>(slot)) + 1) * end / stretches;
    auto to = std::find_if(from + 1, all.end(), [&](const MemorySample& s) {
      return s.seconds >= until;
    });
    auto [low, high] = std::minmax_element(from, to, less);
    kept.push_back(std::min(
        *low, *high, [](auto& a, auto& b) { return a.seconds < b.seconds; }));
    if (low != high)
      kept.push_back(low->seconds < high->seconds ? *high : *low);
    from = to;
  }
  kept.push_back(all.back());
  return kept;
}

} // namespace inv::train
