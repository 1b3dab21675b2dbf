// Hazards of faults: exceptions anywhere, memory that runs out at any moment.
#include "HazardTest.h"

#include "inv/Abi.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>

namespace inv::test {
namespace {

/// The CPU allocator, which can be told to fail at its n-th allocation. Counts
/// the blocks that are alive.
struct Failing final : c10::Allocator {
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
  std::atomic<int64_t> countdown{0};

  static Failing& installed() {
    static auto* all = [] {
      auto* f = new Failing; // tensors may outlive main()
      f->inner = c10::GetAllocator(c10::DeviceType::CPU);
      constexpr uint8_t kPriority = 255;
      c10::SetAllocator(c10::DeviceType::CPU, f, kPriority);
      return f;
    }();
    return *all;
  }
};

class HazardFault : public Hazard {};

TEST_P(HazardFault, H20_AnExceptionInTheConditioner) {
  for (int64_t goodCalls = 0; goodCalls < 8; goodCalls++) {
    TestOps::reset();
    Net net = makeNet(4, expression("torch.tanh(invtest.fail_after(z, " +
                                        std::to_string(goodCalls) + "))",
                                    [](auto& z) { return at::tanh(z); }));
    const std::string message =
        messageOf([&] { run(net, false, inputs, bothSides); });
    EXPECT_TRUE(contains(message, "planted")) << goodCalls;
    EXPECT_EQ(stats().liveNodes, 0);
    EXPECT_EQ(stats().liveSlots, 0);
  }
}

TEST_P(HazardFault, H20_AnExceptionInTheInverse) {
  StepSpec spec;
  spec.numAux = 0;
  spec.code = "def function(self, x: Tensor):\n"
              "    return torch.exp(x)\n"
              "def inverse(self, y: Tensor):\n"
              "    return torch.log(invtest.fail_after(y, 1))\n";
  const auto step = makeStep(spec);
  const at::Tensor x = inputs[0].clone().requires_grad_();
  {
    at::Tensor y = x * 0.1;
    for (int i = 0; i < 3; i++)
      y = bijection(step, {y}, {})[0] * 0.1;
    EXPECT_TRUE(
        contains(messageOf([&] { gradOf({y.sum()}, {x}); }), "planted"));
  }
  EXPECT_EQ(stats().liveSlots, 0);
}

TEST_P(HazardFault, H20_MemoryRunsOutAtEveryAllocation) {
  auto& allocator = Failing::installed();
  Net net = makeNet(4, tanhNet(4));
  const Tensors reference = run(net, true, inputs, bothSides);
  EXPECT_LE(distance(run(net, false, inputs, bothSides), reference), 1e-12);
  int64_t failures = 0;
  for (int64_t n = 1;; n++) {
    allocator.countdown = n;
    const std::string message =
        messageOf([&] { run(net, false, inputs, bothSides); });
    const bool reached = allocator.countdown == 0;
    allocator.countdown = 0;
    if (!reached)
      break;
    failures++;
    // What autograd's queue of this thread still holds goes with its next run.
    inputs[0].clone().requires_grad_().sum().backward();
    ASSERT_TRUE(contains(message, "planted: out of memory")) << n << message;
    ASSERT_EQ(stats().liveNodes, 0) << n;
    ASSERT_EQ(stats().liveRecords, 0) << n;
    ASSERT_EQ(stats().liveSlots, 0) << n;
    ASSERT_LE(distance(run(net, false, inputs, bothSides), reference), 1e-12)
        << n;
  }
  EXPECT_GT(failures, 50);
}

TEST_P(HazardFault, H20_AGraphWhoseBackwardFailedRunsAgain) {
  // With retain_graph the same graph can be tried again, as plain autograd's.
  auto& allocator = Failing::installed();
  Net net = makeNet(4, tanhNet(4));
  const auto gradients = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const at::Tensor loss = bothSides(x, y);
    Tensors result;
    if (!plain)
      for (int64_t n = 1; n < 60; n += 7) {
        allocator.countdown = n;
        messageOf([&] { gradOf({loss}, x, true); });
        allocator.countdown = 0;
      }
    return gradOf({loss}, x);
  };
  EXPECT_LE(distance(gradients(false), gradients(true)), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardFault, bothDoors(), doorName);

} // namespace
} // namespace inv::test
