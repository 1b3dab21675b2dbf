// Hazards of changes: tensors that somebody writes between forward and
// backward.
#include "HazardTest.h"

namespace inv::test {
namespace {

class HazardChange : public Hazard {
protected:
  Net net = makeNet(4, tanhNet(4));

  void TearDown() override {
    net.ofStep.clear();
    Hazard::TearDown();
  }
};

TEST_P(HazardChange, H02_AnOutputChangedInPlaceIsAnErrorOrRight) {
  for (const auto& change : std::vector<std::function<void(at::Tensor)>>{
           [](at::Tensor t) { t.mul_(2); }, [](at::Tensor t) { t.relu_(); },
           [](at::Tensor t) { t.detach().zero_(); }}) {
    for (size_t which : {0, 1}) {
      Tensors x = leaves(inputs);
      const Tensors y = net(x[0], x[1]);
      change(y[which]);
      const std::string message =
          messageOf([&] { gradOf({y[0].sum() + y[1].sum()}, x); });
      EXPECT_TRUE(contains(message, "modified by an inplace operation"));
      EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
    }
  }
}

TEST_P(HazardChange, H03_WeightsChangedBeforeBackwardAreAnError) {
  for (const at::Tensor& p : net.parameters()) {
    Tensors x = leaves(inputs);
    const Tensors y = net(x[0], x[1]);
    p.detach().add_(1);
    const std::string message =
        messageOf([&] { gradOf({y[0].sum() + y[1].sum()}, x); });
    EXPECT_TRUE(contains(message, "modified by an inplace operation"));
    EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
    EXPECT_TRUE(contains(message, "capture ")) << message;
  }
}

TEST_P(HazardChange, H03_TheErrorSaysWhatWasChanged) {
  Conditioner gated = tanhNet(4);
  gated.code = R"(
def conditioner(self, z: Tensor, weight: Tensor, bias: Tensor, table: Tensor):
    return torch.tanh(torch.linear(z, weight, bias)) * table
)";
  gated.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(z, p[0], p[1])) * p[2];
  };
  gated.captures = [make = gated.captures] {
    Tensors result = make();
    result.push_back(random({4}).exp()); // a buffer
    return result;
  };
  net = makeNet(2, gated);
  // `change` gets the captures of the first step and the outputs.
  const auto messageAfter =
      [&](const std::function<void(const Tensors&, const Tensors&)>& change) {
        const Tensors x = leaves(inputs);
        const Tensors y = net(x[0], x[1]);
        change(net.ofStep[0], y);
        return messageOf([&] { gradOf({y[0].sum() + y[1].sum()}, x); });
      };
  EXPECT_EQ(messageAfter([](auto&, auto&) {}), "");
  const std::vector<std::pair<size_t, std::string>> captures = {
      {0, "capture 0 ('weight')"},
      {1, "capture 1 ('bias')"},
      {2, "capture 2 ('table')"}};
  for (const auto& [i, name] : captures) {
    const std::string message =
        messageAfter([i = i](auto& p, auto&) { p[i].detach().mul_(2); });
    EXPECT_TRUE(contains(message, "modified by an inplace operation"));
    EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
    EXPECT_TRUE(contains(message, name)) << message;
  }
  for (size_t i : {0, 1}) {
    const std::string message =
        messageAfter([i](auto&, auto& y) { y[i].detach().mul_(2); });
    EXPECT_TRUE(contains(message, "modified by an inplace operation"));
    EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
    EXPECT_TRUE(contains(message, i == 0 ? "the state number 0 that it read"
                                         : "its result number 0"))
        << message;
  }
}

TEST_P(HazardChange, H03_ACapturedValueChangedInPlaceIsAnError) {
  if (GetParam() == Door::Archive)
    GTEST_SKIP() << "the archive's captures are parameters";
  const Tensors x = leaves(inputs);
  const at::Tensor gate = (x[0] * 2).select(0, 0); // a value that was computed
  const at::Tensor bias = net.ofStep[0][1];
  const at::Tensor y =
      coupling(net.step(), {x[0]}, {x[1]}, {net.ofStep[0][0], gate})[0];
  gate.mul_(2);
  const std::string message = messageOf([&] { gradOf({y.sum()}, x); });
  EXPECT_TRUE(contains(message, "modified by an inplace operation"));
  EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
  EXPECT_TRUE(contains(message, "capture 1 ('b')")) << message;
}

TEST_P(HazardChange, H07_AReadInputMayBeChangedInPlace) {
  // Plain autograd raises, since F saved b (and its graph leaks: b, changed,
  // depends on what saved it; so it does not run here). The steps rebuild b.
  const auto run = [&](bool plain, bool inPlace) {
    const Tensors x = leaves(inputs);
    at::Tensor b = x[1] * 1;
    const Tensors y = plain ? net.plain(x[0] * 1, b) : net(x[0] * 1, b);
    b = inPlace ? b.add_(y[0]) : b + y[0];
    return gradOf({b.sum() + y[1].sum()}, x);
  };
  EXPECT_LE(distance(run(false, true), run(true, false)), 1e-12);
}

TEST_P(HazardChange, H12_WeightsChangedBetweenTwoBackwardCallsAreAnError) {
  const Tensors x = leaves(inputs);
  const Tensors y = net(x[0], x[1]);
  const at::Tensor loss = bothSides(x, y);
  gradOf({loss}, x, true);
  net.ofStep[2][1].detach().add_(1);
  const std::string message = messageOf([&] { gradOf({loss}, x); });
  EXPECT_TRUE(contains(message, "modified by an inplace operation"));
  EXPECT_TRUE(contains(message, "capture 1 ('b')")) << message;
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardChange, bothDoors(), doorName);

} // namespace
} // namespace inv::test
