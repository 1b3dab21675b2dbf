// What the hazard tests share. One test for each row of docs/hazards.md,
// through every door, on the CPU and, where there is one, on a GPU, against
// plain autograd on the same captures.
#pragma once

#include "../support/Rewrite.h"
#include "Nets.h"

#include "inv/Runtime.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace inv::test {

inline Tensors gradOf(const Tensors& of, const Tensors& to, bool retain = false,
                      bool create = false) {
  return torch::autograd::grad(of, to, {}, retain, create,
                               /*allow_unused=*/true);
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// On testDevice().
inline at::Tensor random(c10::IntArrayRef sizes,
                         at::ScalarType dtype = at::kDouble) {
  return at::randn(sizes,
                   at::TensorOptions().dtype(dtype).device(testDevice()));
}

/// How a test is run.
struct Way {
  Door door;
  c10::DeviceType device;
  bool operator==(Door other) const { return door == other; }
};

/// For INSTANTIATE_TEST_SUITE_P: every test of a file runs through every door.
inline auto everyDoor() {
  std::vector<Way> ways;
  for (auto device : {at::kCPU, at::kCUDA})
    for (Door door : {Door::Operator, Door::Archive, Door::Rewritten})
      ways.push_back({door, device});
  return testing::ValuesIn(ways);
}
inline std::string doorName(const testing::TestParamInfo<Way>& info) {
  constexpr const char* kNames[] = {"Operator", "Archive", "Rewritten"};
  return std::string(kNames[static_cast<size_t>(info.param.door)]) +
         (info.param.device == at::kCUDA ? "OnCuda" : "");
}

class Hazard : public testing::TestWithParam<Way> {
protected:
  using Loss = std::function<at::Tensor(const Tensors& x, const Tensors& y)>;

  Hazard() { testDevice() = hasDevice() ? GetParam().device : at::kCPU; }
  ~Hazard() override { testDevice() = at::kCPU; }

  void SetUp() override {
    if (!hasDevice())
      GTEST_SKIP() << "no GPU";
    if (GetParam() == Door::Rewritten && !canRewrite())
      GTEST_SKIP() << "built without the passes: nothing to rewrite with";
    at::manual_seed(31);
    resetStats();
    TestOps::reset();
  }
  void TearDown() override {
    if (onGpu()) // what autograd's queue of the device still holds
      at::ones({}, at::kCUDA).requires_grad_().sum().backward();
    expectNothingAlive();
  }

  static bool hasDevice() { return GetParam().device == at::kCPU || haveGpu(); }
  static bool onGpu() { return testDevice() == at::kCUDA; }

  Net makeNet(int64_t steps, const Conditioner& conditioner, double xScale = 1,
              double auxScale = 1) {
    return {GetParam().door, steps, conditioner, xScale, auxScale};
  }

  /// Values of y, then gradients of x and the parameters. The seed and the
  /// buffers are the same for both.
  static Tensors run(Net& net, bool plain, const Tensors& inputs,
                     const Loss& loss) {
    at::manual_seed(5);
    Tensors buffers;
    for (const at::Tensor& t : net.captures())
      buffers.push_back(t.detach().clone());
    const Tensors x = leaves(inputs);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    Tensors result = {y[0].detach().clone(), y[1].detach().clone()};
    for (const at::Tensor& g : gradOf({loss(x, y)}, wanted))
      result.push_back(g);
    at::NoGradGuard noGrad;
    const Tensors captures = net.captures();
    for (size_t i = 0; i < captures.size(); i++)
      if (!captures[i].requires_grad()) {
        result.push_back(captures[i].clone());
        at::Tensor(captures[i]).copy_(buffers[i]);
      }
    return result;
  }

  static void same(Net& net, const Tensors& inputs, const Loss& loss,
                   double bound = 1e-12) {
    const Tensors ours = run(net, false, inputs, loss);
    const Tensors plain = run(net, true, inputs, loss);
    EXPECT_TRUE(at::equal(ours[0], plain[0]));
    EXPECT_TRUE(at::equal(ours[1], plain[1]));
    EXPECT_LE(distance(ours, plain), bound);
  }

  static at::Tensor bothSides(const Tensors&, const Tensors& y) {
    return y[0].sin().sum() + y[1].exp().sum();
  }

  Tensors inputs = {random({5, 4}), random({5, 4})};
};

} // namespace inv::test
