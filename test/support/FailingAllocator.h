// The CPU's allocator, which can be told to fail at its n-th allocation.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <atomic>

namespace inv::test {

struct FailingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (countdown > 0 && --countdown == 0)
      TORCH_CHECK(false, "planted: out of memory");
    return inner->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return inner->raw_deleter();
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    inner->copy_data(to, from, bytes);
  }
  c10::Allocator* inner = nullptr;
  /// The allocation, from now, that fails; 0 for none.
  std::atomic<int64_t> countdown{0};

  /// In use from the first call on.
  static FailingAllocator& installed() {
    static auto* all = [] {
      auto* f = new FailingAllocator; // tensors may outlive main()
      f->inner = c10::GetAllocator(c10::DeviceType::CPU);
      constexpr uint8_t kPriority = 255;
      c10::SetAllocator(c10::DeviceType::CPU, f, kPriority);
      return f;
    }();
    return *all;
  }
};

} // namespace inv::test
