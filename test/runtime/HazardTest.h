// What the hazard tests share. One test for each row of docs/hazards.md,
// through both doors, against plain autograd on the same captures.
#pragma once

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

inline at::Tensor random(c10::IntArrayRef sizes,
                         at::ScalarType dtype = at::kDouble) {
  return at::randn(sizes, dtype);
}

/// For INSTANTIATE_TEST_SUITE_P: every test of a file runs through both doors.
inline auto bothDoors() {
  return testing::Values(Door::Operator, Door::Archive);
}
inline std::string doorName(const testing::TestParamInfo<Door>& info) {
  return info.param == Door::Operator ? "Operator" : "Archive";
}

class Hazard : public testing::TestWithParam<Door> {
protected:
  using Loss = std::function<at::Tensor(const Tensors& x, const Tensors& y)>;

  void SetUp() override {
    at::manual_seed(31);
    resetStats();
    TestOps::reset();
  }
  void TearDown() override { expectNothingAlive(); }

  Net makeNet(int64_t steps, const Conditioner& conditioner, double xScale = 1,
              double auxScale = 1) {
    return {GetParam(), steps, conditioner, xScale, auxScale};
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
