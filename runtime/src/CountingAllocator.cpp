#include "inv/CountingAllocator.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstring>
#include <mutex>

namespace inv {
namespace {

// The size sits in front of the data, in a block that keeps the alignment.
constexpr size_t kHeader = c10::gAlignment;
static_assert(kHeader >= sizeof(size_t));

std::atomic<int64_t> currentBytes{0}, peakBytes{0};

void add(int64_t bytes) {
  const int64_t now = currentBytes += bytes;
  int64_t peak = peakBytes;
  while (now > peak && !peakBytes.compare_exchange_weak(peak, now)) {
  }
}

void release(void* data) {
  if (!data)
    return;
  char* block = static_cast<char*>(data) - kHeader;
  size_t bytes;
  std::memcpy(&bytes, block, sizeof(bytes));
  currentBytes -= static_cast<int64_t>(bytes);
  c10::free_cpu(block);
}

struct Counting final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0)
      return {nullptr, nullptr, &release, cpu};
    auto* block = static_cast<char*>(c10::alloc_cpu(bytes + kHeader));
    std::memcpy(block, &bytes, sizeof(bytes));
    add(static_cast<int64_t>(bytes));
    void* data = block + kHeader;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

} // namespace

void CountingAllocator::install() {
  static std::once_flag once;
  std::call_once(once, [] {
    static auto* allocator = new Counting; // tensors may outlive main()
    constexpr uint8_t kPriority = 255;
    c10::SetAllocator(c10::DeviceType::CPU, allocator, kPriority);
  });
}
int64_t CountingAllocator::current() { return currentBytes; }
int64_t CountingAllocator::peak() { return peakBytes; }
void CountingAllocator::resetPeak() { peakBytes = currentBytes.load(); }

} // namespace inv
