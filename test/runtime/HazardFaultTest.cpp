// Hazards of faults: exceptions anywhere, memory that runs out at any moment.
#include "../support/FailingAllocator.h"
#include "HazardTest.h"

#include "inv/Abi.h"

namespace inv::test {
namespace {

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

/// Runs `body` again and again, with the n-th allocation failing, until none
/// fails. After each failure nothing may be left, and `body` must work again.
/// Returns how many failed.
int64_t failEverywhere(const std::function<Tensors()>& body,
                       const Tensors& reference, double bound) {
  auto& allocator = FailingAllocator::installed();
  EXPECT_LE(distance(body(), reference), bound);
  for (int64_t n = 1;; n++) {
    allocator.countdown = n;
    const std::string message = messageOf([&] { body(); });
    const bool reached = allocator.countdown == 0;
    allocator.countdown = 0;
    if (!reached)
      return n - 1;
    // What autograd's queue of this thread still holds goes with its next run.
    at::ones({}).requires_grad_().sum().backward();
    EXPECT_TRUE(contains(message, "planted: out of memory")) << n << message;
    expectNothingAlive();
    EXPECT_LE(distance(body(), reference), bound) << n;
    if (testing::Test::HasFailure())
      return 0;
  }
}

TEST_P(HazardFault, H20_MemoryRunsOutAtEveryAllocation) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  Conditioner relu = tanhNet(4); // whose exact zeros are noted
  relu.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return torch.tanh(torch.linear(torch.relu(z), w, b))
)";
  relu.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(at::relu(z), p[0], p[1]));
  };
  Conditioner dropout = tanhNet(4); // whose numbers are drawn again
  dropout.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return torch.dropout(torch.tanh(torch.linear(z, w, b)), 0.3, True)
)";
  dropout.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::dropout(at::tanh(at::linear(z, p[0], p[1])), 0.3, true);
  };
  Conditioner sort = tanhNet(4); // which keeps its states
  sort.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return torch.tanh(torch.linear(torch.sort(z, 1)[0], w, b))
)";
  sort.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(std::get<0>(at::sort(z, 1)), p[0], p[1]));
  };
  inputs[0].select(0, 1).zero_();
  inputs[1].select(1, 1).zero_();
  for (const Conditioner& c : {tanhNet(4), relu, dropout, sort}) {
    Net net = makeNet(4, c);
    EXPECT_GT(failEverywhere([&] { return run(net, false, inputs, bothSides); },
                             run(net, true, inputs, bothSides), 1e-12),
              50);
  }
}

TEST_P(HazardFault, H20_MemoryRunsOutInAStepThatIsNoSum) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  if (GetParam() == Door::Archive)
    GTEST_SKIP() << "the archive's steps are sums";
  StepSpec spec; // measured growth, a side output, a buffer that it writes
  spec.numAux = 2;
  spec.numSides = 1;
  spec.scratch = {1};
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, n: Tensor):
    n.add_(1)
    s = torch.tanh(torch.linear(z, w))
    return torch.exp(s), torch.tanh(z), s.sum(1)
def function(self, x: Tensor, s: Tensor, t: Tensor):
    return x * s + t
def inverse(self, y: Tensor, s: Tensor, t: Tensor):
    return (y - t) / s
def growth(self, y: Tensor, s: Tensor, t: Tensor):
    return torch.amax(torch.reciprocal(s))
)";
  const auto step = makeStep(spec);
  const Tensors in = {random({5, 4}), random({5, 4}), random({4, 4})};
  const auto body = [&](bool plain) {
    const Tensors x = leaves(in);
    const at::Tensor n = at::zeros({});
    at::Tensor a = x[0], b = x[1], loss = at::zeros({}, at::kDouble);
    for (int i = 0; i < 3; i++) {
      const at::Tensor s = at::tanh(at::linear(b, x[2]));
      const Tensors out =
          plain ? Tensors{a * at::exp(s) + at::tanh(b), s.sum(1), b}
                : coupling(step, {a}, {b}, {x[2], n});
      loss = loss + out[1].sin().sum();
      a = out[2];
      b = out[0];
    }
    return gradOf({loss + a.sin().sum() + b.sum()}, x);
  };
  EXPECT_GT(failEverywhere([&] { return body(false); }, body(true), 1e-11), 50);
}

TEST_P(HazardFault, H20_MemoryRunsOutInADoubleBackward) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  Net net = makeNet(3, tanhNet(4));
  const auto body = [&](bool plain) {
    const Tensors x = leaves(inputs);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const Tensors g = gradOf({bothSides(x, y)}, wanted, true, true);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const at::Tensor& t : g)
      sum = sum + t.pow(2).sum();
    return gradOf({sum}, wanted);
  };
  EXPECT_GT(failEverywhere([&] { return body(false); }, body(true), 1e-11),
            100);
}

TEST_P(HazardFault, H20_AGraphWhoseBackwardFailedRunsAgain) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  // With retain_graph the same graph can be tried again, as plain autograd's.
  auto& allocator = FailingAllocator::installed();
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
