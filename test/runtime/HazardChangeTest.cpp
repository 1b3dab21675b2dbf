// Hazards of changes: tensors that somebody writes between forward and
// backward.
#include "HazardTest.h"

#include "inv/Abi.h"

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
      // The last step read the first of them and made the second.
      EXPECT_TRUE(contains(message, net.originOf(3))) << message;
      EXPECT_TRUE(contains(message, which == 0 ? "the state number 0"
                                               : "its result number 0"))
          << message;
    }
  }
}

TEST_P(HazardChange, H03_WeightsChangedBeforeBackwardAreAnError) {
  for (size_t i = 0; i < net.ofStep.size(); i++)
    for (size_t j = 0; j < net.ofStep[i].size(); j++) {
      Tensors x = leaves(inputs);
      const Tensors y = net(x[0], x[1]);
      net.ofStep[i][j].detach().add_(1);
      const std::string message =
          messageOf([&] { gradOf({y[0].sum() + y[1].sum()}, x); });
      EXPECT_TRUE(contains(message, "modified by an inplace operation"));
      EXPECT_TRUE(contains(message, net.originOf(i))) << message;
      EXPECT_TRUE(contains(message, net.nameOf(i, j))) << message;
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
  const std::string names[] = {"'weight'", "'bias'", "'table'"};
  for (size_t i : {0, 1, 2}) {
    const std::string message =
        messageAfter([i](auto& p, auto&) { p[i].detach().mul_(2); });
    EXPECT_TRUE(contains(message, "modified by an inplace operation"));
    EXPECT_TRUE(contains(message, net.originOf(0))) << message;
    EXPECT_TRUE(contains(message, net.nameOf(0, i))) << message;
    // inv-opt names them after the model's attributes.
    EXPECT_TRUE(GetParam() == Door::Rewritten || contains(message, names[i]))
        << message;
  }
  for (size_t i : {0, 1}) {
    const std::string message =
        messageAfter([i](auto&, auto& y) { y[i].detach().mul_(2); });
    EXPECT_TRUE(contains(message, "modified by an inplace operation"));
    EXPECT_TRUE(contains(message, net.originOf(1))) << message;
    EXPECT_TRUE(contains(message, i == 0 ? "the state number 0 that it read"
                                         : "its result number 0"))
        << message;
  }
}

TEST_P(HazardChange, H03_ACapturedValueChangedInPlaceIsAnError) {
  if (GetParam() == Door::Archive)
    GTEST_SKIP() << "the archive's captures are parameters";
  const Tensors x = leaves(inputs);
  const at::Tensor weight = net.ofStep[0][0];
  const at::Tensor gate = (x[0] * 2).select(0, 0); // a value that was computed
  at::Tensor y;
  if (GetParam() == Door::Operator) {
    StepSpec spec;
    spec.arithmetic = abi::kScaledSum;
    spec.code = "def conditioner(self, z: Tensor, weight: Tensor, gate: "
                "Tensor):\n"
                "    return torch.tanh(torch.linear(z, weight)) * gate\n";
    y = coupling(makeStep(spec), {x[0]}, {x[1]}, {weight, gate})[0];
  } else {
    auto model = rewrittenOf(modelOf(R"(
def forward(self, a: Tensor, b: Tensor, gate: Tensor):
    a = a + torch.tanh(torch.linear(b, self.weight)) * gate
    b = b + torch.tanh(torch.linear(a, self.weight)) * gate
    return a + torch.tanh(torch.linear(b, self.weight)) * gate
)",
                                     {{"weight", weight}}),
                             3);
    y = model.forward({x[0], x[1], gate}).toTensor();
  }
  gate.mul_(2);
  const std::string message = messageOf([&] { gradOf({y.sum()}, x); });
  EXPECT_TRUE(contains(message, "modified by an inplace operation"));
  EXPECT_TRUE(contains(message, "inv::coupling (")) << message;
  // A rewritten step reads what its caller hands in as another state.
  EXPECT_TRUE(contains(message, GetParam() == Door::Operator
                                    ? "capture 1 ('gate')"
                                    : "the state number 1 that it read"))
      << message;
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
  EXPECT_TRUE(contains(message, net.originOf(2))) << message;
  EXPECT_TRUE(contains(message, net.nameOf(2, 1))) << message;
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardChange, everyDoor(), doorName);

} // namespace
} // namespace inv::test
