// Hazards of values: inputs, dtypes, random numbers, buffers, layouts,
// rounding.
#include "HazardTest.h"

#include "inv/Abi.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <c10/util/Exception.h>

#include <limits>
#include <sstream>

namespace inv::test {
namespace {

class HazardValues : public Hazard {};

TEST_P(HazardValues, H01_CleanChain) {
  Net in64 = makeNet(8, tanhNet(4));
  same(in64, inputs, bothSides, 1e-12);
  Net in32 = makeNet(8, tanhNet(4, at::kFloat));
  same(in32, {random({5, 4}, at::kFloat), random({5, 4}, at::kFloat)},
       bothSides, 5e-6);
  in32.setMode(abi::kStore);
  same(in32, {random({5, 4}, at::kFloat), random({5, 4}, at::kFloat)},
       bothSides, 0);
}

Conditioner dropoutNet() {
  Conditioner c = tanhNet(4);
  c.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    h = torch.dropout(torch.tanh(torch.linear(z, w, b)), 0.3, True)
    return torch.dropout(torch.linear(h, w, b), 0.3, True)
)";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    const at::Tensor h =
        at::dropout(at::tanh(at::linear(z, p[0], p[1])), 0.3, true);
    return at::dropout(at::linear(h, p[0], p[1]), 0.3, true);
  };
  return c;
}

TEST_P(HazardValues, H04_Dropout) {
  Net net = makeNet(6, dropoutNet());
  same(net, inputs, bothSides);
  EXPECT_EQ(stats().rngSaved, 6);
}

TEST_P(HazardValues, H04_DropoutLeavesTheStreamOfNumbersAlone) {
  Net net = makeNet(6, dropoutNet());
  const auto losses = [&](bool plain) {
    at::manual_seed(1);
    std::vector<double> result;
    for (int step = 0; step < 4; step++) {
      const Tensors x = {random({5, 4}), random({5, 4})};
      const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
      const at::Tensor loss = bothSides(x, y);
      gradOf({loss}, net.parameters());
      result.push_back(loss.item<double>());
    }
    return result;
  };
  EXPECT_EQ(losses(false), losses(true));
}

Conditioner normNet(const std::string& momentum, double plainMomentum) {
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor, w: Tensor, mean: Tensor, "
           "var: Tensor):\n"
           "    return torch.batch_norm(torch.linear(z, w), None, None, mean, "
           "var, True, " +
           momentum + ", 1e-5, False)\n";
  c.plain = [=](const at::Tensor& z, const Tensors& p) {
    return at::batch_norm(at::linear(z, p[0]), {}, {}, p[1], p[2], true,
                          plainMomentum, 1e-5, false);
  };
  c.captures = [] {
    return Tensors{random({4, 4}).requires_grad_(), random({4}),
                   random({4}).exp()};
  };
  c.scratch = {1, 2};
  return c;
}

TEST_P(HazardValues, H05_BatchNormStatisticsMoveOnce) {
  Net net = makeNet(4, normNet("0.1", 0.1));
  same(net, inputs, bothSides, 1e-11);
}

TEST_P(HazardValues, H05_CumulativeStatistics) {
  Conditioner c = normNet("0.1", 0.1);
  c.code = R"(
def conditioner(self, z: Tensor, w: Tensor, mean: Tensor, var: Tensor, n: Tensor):
    n.add_(1)
    return torch.batch_norm(torch.linear(z, w), None, None, mean, var, True,
                            1.0 / float(n), 1e-5, False)
)";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    at::Tensor(p[3]).add_(1);
    return at::batch_norm(at::linear(z, p[0]), {}, {}, p[1], p[2], true,
                          1.0 / p[3].item<double>(), 1e-5, false);
  };
  c.captures = [make = c.captures] {
    Tensors result = make();
    result.push_back(at::full({}, 2, at::kLong));
    return result;
  };
  c.scratch = {1, 2, 3};
  Net net = makeNet(4, c);
  same(net, inputs, bothSides, 1e-11);
}

TEST_P(HazardValues, H14_WithoutGradModeNothingIsFreed) {
  Net net = makeNet(4, tanhNet(4));
  const Tensors x = leaves(inputs);
  const Tensors before = {x[0].detach().clone(), x[1].detach().clone()};
  const auto check = [&](const Tensors& y) {
    EXPECT_FALSE(y[0].requires_grad());
    EXPECT_TRUE(at::equal(y[0], net.plain(x[0], x[1])[0]));
    EXPECT_TRUE(at::equal(x[0], before[0]));
    EXPECT_TRUE(at::equal(x[1], before[1]));
    EXPECT_EQ(stats().liveNodes, 0);
  };
  {
    at::NoGradGuard noGrad;
    check(net(x[0], x[1]));
  }
  c10::InferenceMode inference;
  check(net(x[0], x[1]));
}

TEST_P(HazardValues, H14_InferenceTensorsAreAnsweredAsByPlainAutograd) {
  Net net = makeNet(2, tanhNet(4));
  Tensors x;
  {
    c10::InferenceMode inference;
    x = {random({5, 4}), random({5, 4})};
  }
  const auto run = [&](bool plain) {
    return messageOf([&] { plain ? net.plain(x[0], x[1]) : net(x[0], x[1]); });
  };
  EXPECT_TRUE(contains(run(true), "Inference tensors cannot be saved"));
  EXPECT_TRUE(contains(run(false), "Inference tensors cannot be saved"));
}

TEST_P(HazardValues, H15_Layouts) {
  using Make = std::function<at::Tensor(const at::Tensor&)>;
  struct Case {
    const char* name;
    std::vector<int64_t> sizes;
    Make make;
  };
  const std::vector<Case> cases = {
      {"view",
       {40},
       [](auto& t) {
         return t.view({10, 4}).narrow(0, 2, 5);
       }},
      {"column", {5, 8}, [](auto& t) { return t.narrow(1, 3, 4); }},
      {"strided", {10, 4}, [](auto& t) { return t.slice(0, 0, 10, 2); }},
      {"transposed", {4, 5}, [](auto& t) { return t.t(); }},
      {"expanded",
       {1, 4},
       [](auto& t) {
         return t.expand({5, 4});
       }},
      {"overlapping", {12}, [](auto& t) { return t.unfold(0, 4, 2); }},
      {"batch of one", {1, 4}, [](auto& t) { return t * 1; }},
      {"empty", {0, 4}, [](auto& t) { return t * 1; }},
      {"three dimensions",
       {2, 3, 4},
       [](auto& t) { return t.transpose(0, 1); }},
      {"zero strides", {4}, [](auto& t) {
         return t.expand({3, 4});
       }}};
  Net net = makeNet(4, tanhNet(4));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const auto run = [&](bool plain) {
      at::manual_seed(2);
      const Tensors x = leaves({random(c.sizes), random(c.sizes)});
      const at::Tensor a = c.make(x[0]), b = c.make(x[1]);
      const Tensors y = plain ? net.plain(a, b) : net(a, b);
      Tensors wanted = x;
      for (const at::Tensor& p : net.parameters())
        wanted.push_back(p);
      return gradOf({y[0].sin().sum() + y[1].exp().sum()}, wanted);
    };
    EXPECT_LE(distance(run(false), run(true)), 1e-12);
  }
}

TEST_P(HazardValues, H15_ChannelsLast) {
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
           "    return torch.conv2d(torch.tanh(z), w, None, [1, 1], [1, 1])\n";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::conv2d(at::tanh(z), p[0], {}, {1, 1}, at::IntArrayRef({1, 1}));
  };
  c.captures = [] {
    return Tensors{(random({3, 3, 3, 3}) / 5).requires_grad_()};
  };
  Net net = makeNet(4, c);
  const auto format = at::MemoryFormat::ChannelsLast;
  same(net,
       {random({2, 3, 4, 4}).contiguous(format),
        random({2, 3, 4, 4}).contiguous(format)},
       bothSides);
  same(net, {random({2, 3, 4, 4}).contiguous(format), random({2, 3, 4, 4})},
       bothSides);
}

TEST_P(HazardValues, H16_Autocast) {
  const Tensors x = {random({5, 4}, at::kFloat), random({5, 4}, at::kFloat)};
  const auto run = [&](Net& net, bool plain, at::ScalarType dtype) {
    const Tensors in = leaves(x);
    const auto before = at::autocast::get_autocast_dtype(testDevice());
    at::autocast::set_autocast_enabled(testDevice(), true);
    at::autocast::set_autocast_dtype(testDevice(), dtype);
    const Tensors y = plain ? net.plain(in[0], in[1]) : net(in[0], in[1]);
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(testDevice(), false);
    at::autocast::set_autocast_dtype(testDevice(), before);
    Tensors wanted = in;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    Tensors result = gradOf({bothSides(in, y)}, wanted);
    for (const at::Tensor& g : result)
      EXPECT_EQ(g.scalar_type(), at::kFloat);
    result.push_back(y[0].detach());
    result.push_back(y[1].detach());
    return result;
  };
  for (at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    // TorchScript bakes the dtype into a function at its first run.
    Net net = makeNet(4, tanhNet(4, at::kFloat));
    const Tensors ours = run(net, false, dtype), plain = run(net, true, dtype);
    const size_t n = ours.size();
    EXPECT_TRUE(at::equal(ours[n - 1], plain[n - 1]));
    EXPECT_TRUE(at::equal(ours[n - 2], plain[n - 2]));
    EXPECT_LE(distance(ours, plain), dtype == at::kHalf ? 2e-3 : 2e-2);
  }
}

TEST_P(HazardValues, H21_NaNAndInfinity) {
  Net net = makeNet(4, tanhNet(4));
  for (double bad : {std::numeric_limits<double>::quiet_NaN(),
                     std::numeric_limits<double>::infinity()}) {
    Tensors x = {inputs[0].clone(), inputs[1].clone()};
    x[0][1][2] = bad;
    const auto loss = [](const Tensors&, const Tensors& y) {
      return (y[0] * y[0]).sum() + (y[1] * y[1]).sum();
    };
    const Tensors ours = run(net, false, x, loss);
    const Tensors plain = run(net, true, x, loss);
    for (size_t i = 0; i < ours.size(); i++) {
      // Not finite where plain autograd's is not. (y - f is not inf - inf + inf
      // again, so more of ours may be NaN.)
      const at::Tensor badThere = plain[i].isfinite().logical_not();
      EXPECT_TRUE(ours[i]
                      .masked_select(badThere)
                      .isfinite()
                      .logical_not()
                      .all()
                      .item<bool>())
          << bad << ", tensor " << i;
    }
  }
}

TEST_P(HazardValues, H25_DeterministicMode) {
  Net net = makeNet(4, tanhNet(4));
  auto& context = at::globalContext();
  // cuBLAS wants an environment variable, too.
  context.setDeterministicAlgorithms(true, /*warnOnly=*/onGpu());
  same(net, inputs, bothSides);
  context.setDeterministicAlgorithms(false, false);
}

TEST_P(HazardValues, H26_DepthErrorIsACurve) {
  // Rewriting the deepest takes its time; HazardLife has 2,000 steps of that
  // sort, too.
  std::vector<int64_t> depths = {2, 20, 200};
  if (!(GetParam() == Door::Rewritten))
    depths.push_back(2000);
  for (int64_t steps : depths) {
    // The depth alone: weights that neither grow nor shrink the states.
    Net net = makeNet(steps, tanhNet(4, at::kFloat));
    at::NoGradGuard noGrad;
    for (const at::Tensor& p : net.parameters())
      at::Tensor(p).mul_(2.0 / static_cast<double>(steps));
    at::AutoGradMode grad(true);
    const Tensors x = {random({5, 4}, at::kFloat), random({5, 4}, at::kFloat)};
    const double error =
        distance(run(net, false, x, bothSides), run(net, true, x, bothSides));
    std::ostringstream text;
    text << error;
    RecordProperty("error_at_" + std::to_string(steps), text.str());
    EXPECT_LE(error, 1e-6 * std::sqrt(static_cast<double>(steps)) + 1e-6)
        << steps;
  }
}

TEST_P(HazardValues, H27_SmallScalesAreKeptInTime) {
  Net net = makeNet(12, tanhNet(4, at::kFloat), 0.1, 0.9);
  net.set(abi::kMaxGrowth, 100.); // that of one step
  const Tensors x = {random({5, 4}, at::kFloat), random({5, 4}, at::kFloat)};
  const Tensors ours = run(net, false, x, bothSides);
  EXPECT_LE(distance(ours, run(net, true, x, bothSides)), 2e-5);
  EXPECT_GT(stats().kept, 0);
  EXPECT_LT(stats().kept, 12);
  resetStats();
  Net harmless = makeNet(12, tanhNet(4, at::kFloat), 0.9, 0.1);
  run(harmless, false, x, bothSides);
  EXPECT_EQ(stats().kept, 0);
}

TEST_P(HazardValues, H31_DiscreteChoices) {
  // Ties but for the last bits, which a rebuilt state does not have.
  struct Case {
    const char* code;
    std::function<at::Tensor(const at::Tensor&)> plain;
  };
  const std::vector<Case> cases = {
      {"torch.tanh(z) * torch.remainder(torch.round(z * 1e7), 2)",
       [](auto& z) {
         return at::tanh(z) * at::remainder(at::round(z * 1e7), 2);
       }},
      {"torch.tanh(torch.sort(z, -1)[0]) * z",
       [](auto& z) { return at::tanh(std::get<0>(at::sort(z, -1))) * z; }},
      {"torch.where(z > 1, z * 3, torch.exp(z))",
       [](auto& z) { return at::where(z > 1, z * 3, at::exp(z)); }}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.code);
    Net net = makeNet(4, expression(c.code, c.plain));
    const at::Tensor ones = at::ones_like(random({6, 4}, at::kFloat));
    const Tensors x = {ones / 3,
                       ones + random({6, 4}, at::kFloat).sign() * 1e-7};
    const auto loss = [](const Tensors&, const Tensors& y) {
      return (y[0] * 1e-3).sin().sum() + (y[1] * 1e-3).sin().sum();
    };
    resetStats();
    const Tensors ours = run(net, false, x, loss);
    EXPECT_LE(distance(ours, run(net, true, x, loss)), 1e-6);
    EXPECT_GT(stats().kept, 0);
  }
}

TEST_P(HazardValues, H31_AChoiceByAStateThatIsAlsoUndone) {
  // The state that the step consumes is the one that it chooses by, once
  // directly and once through a step before: nothing may own itself.
  Net net = makeNet(
      2, expression("torch.where(z > 1, z * 3, torch.exp(z))", [](auto& z) {
        return at::where(z > 1, z * 3, at::exp(z));
      }));
  const auto run = [&](bool plain) {
    const at::Tensor x = inputs[0].clone().requires_grad_();
    const at::Tensor a = x * 1;
    Tensors y = plain ? net.plain(a, a) : net(a, a);
    y = plain ? net.plain(y[1], a) : net(y[1], a);
    return gradOf({(y[0] * 1e-2).sin().sum() + (y[1] * 1e-2).sum()}, {x});
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardValues, H31_AChoiceThatNoStateInfluencesKeepsNothing) {
  Conditioner c = tanhNet(4);
  c.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    h = torch.tanh(torch.linear(z, w * (w > 0), b))
    if z.size(0) > 3:
        h = h * 2
    return h
)";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(z, p[0] * (p[0] > 0), p[1])) * 2;
  };
  Net net = makeNet(4, c);
  same(net, inputs, bothSides);
  EXPECT_EQ(stats().kept, 0);
}

TEST_P(HazardValues, H34_ExactZerosBeforeAReLU) {
  // Zero-padded channels. Rounding errors of the rebuilt stream must not make a
  // ReLU take its other side there.
  Conditioner c;
  c.code = R"(
def conditioner(self, z: Tensor, w: Tensor):
    return torch.tanh(torch.linear(torch.relu(z), w))
)";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(at::relu(z), p[0]));
  };
  c.captures = [] { return Tensors{random({8, 8}).requires_grad_()}; };
  for (int64_t zeros : {1, 20}) {
    Net net = makeNet(6, c);
    Tensors x = {random({5, 8}), random({5, 8})};
    for (at::Tensor& t : x)
      t.view({-1}).narrow(0, 3, zeros).zero_();
    same(net, x, bothSides);
  }
}

TEST_P(HazardValues, H35_ACallWhoseCheckFailsKeepsItsInput) {
  Net net = makeNet(2, tanhNet(4));
  same(net, {random({1, 4}), random({5, 4})}, bothSides); // broadcast
  EXPECT_GT(stats().kept, 0);
  resetStats();
  same(net, {random({5, 4}, at::kFloat), random({5, 4})}, bothSides, 1e-6);
  EXPECT_GT(stats().kept, 0); // promoted
  resetStats();
  same(net, inputs, bothSides);
  EXPECT_EQ(stats().kept, 0);
}

/// Collects warnings while it lives.
class Warnings final : public c10::WarningHandler {
public:
  Warnings() : before_(c10::WarningUtils::get_warning_handler()) {
    c10::WarningUtils::set_warning_handler(this);
  }
  ~Warnings() override { c10::WarningUtils::set_warning_handler(before_); }
  Warnings(const Warnings&) = delete;
  Warnings& operator=(const Warnings&) = delete;
  void process(const c10::Warning& warning) override {
    all.push_back(warning.msg());
  }
  std::vector<std::string> all;

private:
  c10::WarningHandler* before_;
};

TEST_P(HazardValues, H35_ACallThatKeepsItsInputIsReportedOnce) {
  const std::string place =
      "layers." + doorName({GetParam(), 0}) + ": report.py:1";
  Net net = makeNet(1, tanhNet(4));
  net.set(abi::kOrigin, place);
  const Warnings warnings;
  const auto loss = [](const Tensors&, const Tensors& y) { return y[1].sum(); };
  run(net, false, inputs, loss);
  EXPECT_EQ(warnings.all.size(), 0u);
  for (int i = 0; i < 3; i++)
    run(net, false, {random({1, 4}), random({5, 4})}, loss);
  ASSERT_EQ(warnings.all.size(), 1u);
  EXPECT_TRUE(contains(warnings.all[0], place)) << warnings.all[0];
  EXPECT_TRUE(contains(warnings.all[0], "the state is broadcast"));
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardValues, everyDoor(), doorName);

} // namespace
} // namespace inv::test
