// What the last bits of a rebuilt state may decide: kinks, choices, casts. A
// state is noted where it has the very value of a kink, or kept where somebody
// chooses by it.
#include "Nets.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace inv::test {
namespace {

using Function = std::function<at::Tensor(const at::Tensor&)>;

struct Case {
  const char* code; ///< of the conditioner, an expression in z
  Function plain;
  double tie; ///< a value of many elements of both streams
};

class Ties : public testing::Test {
protected:
  void SetUp() override {
    at::manual_seed(41);
    resetStats();
  }
  void TearDown() override { expectNothingAlive(); }

  /// A state in which every third element is `tie`, and others are near it.
  static at::Tensor stateWith(double tie) {
    at::Tensor t = at::randn({6, 8}, at::kDouble);
    t.slice(1, 0, 8, 3).fill_(tie);
    t.slice(1, 1, 8, 3).mul_(1e-3).add_(tie);
    return t;
  }

  /// Gradients of both streams, by a chain of four steps.
  static Tensors run(Net& net, bool plain, double tie) {
    at::manual_seed(3);
    const Tensors x = leaves({stateWith(tie), stateWith(tie)});
    const at::Tensor a = x[0] * 1, b = x[1] * 1;
    const Tensors y = plain ? net.plain(a, b) : net(a, b);
    const at::Tensor loss =
        (y[0] * at::arange(8, at::kDouble)).sin().sum() + (y[1] * 3).sum();
    return torch::autograd::grad({loss}, x);
  }

  static void check(const Case& c, bool kept) {
    SCOPED_TRACE(c.code);
    // tanh, so that the streams do not leave the range of the kinks; small, so
    // that many elements of the second stream's states stay near the tie.
    Net net(Door::Operator, 2,
            expression(std::string("1e-3 * torch.tanh(") + c.code + ")",
                       [&](auto& z) { return 1e-3 * at::tanh(c.plain(z)); }));
    resetStats();
    const Tensors ours = run(net, false, c.tie);
    if (kept)
      EXPECT_GT(stats().kept, 0);
    else
      EXPECT_EQ(stats().kept, 0);
    EXPECT_LE(distance(ours, run(net, true, c.tie)), 1e-12);
  }
};

TEST_F(Ties, AtEveryConstantOfAKink) {
  const std::vector<Case> cases = {
      {"torch.relu(z)", [](auto& z) { return at::relu(z); }, 0},
      {"torch.abs(z)", [](auto& z) { return at::abs(z); }, 0},
      {"torch.relu6(z)", [](auto& z) { return at::relu6(z); }, 6},
      {"torch.hardtanh(z)", [](auto& z) { return at::hardtanh(z); }, 1},
      {"torch.hardtanh(z, -0.3, 0.3)",
       [](auto& z) { return at::hardtanh(z, -0.3, 0.3); }, -0.3},
      {"torch.hardsigmoid(z)", [](auto& z) { return at::hardsigmoid(z); }, 3},
      {"torch.hardswish(z)", [](auto& z) { return at::hardswish(z); }, -3},
      {"torch.clamp(z, 0.1, 0.7)",
       [](auto& z) { return at::clamp(z, 0.1, 0.7); }, 0.7},
      {"torch.clamp_min(z, 0.1)", [](auto& z) { return at::clamp_min(z, 0.1); },
       0.1},
      {"torch.softshrink(z, 0.25)",
       [](auto& z) { return at::softshrink(z, 0.25); }, -0.25},
      {"torch.threshold(z, 2., 0.5)",
       [](auto& z) { return at::threshold(z, 2, 0.5); }, 2},
      {"torch.elu(z, 2.)", [](auto& z) { return at::elu(z, 2); }, 0}};
  for (const Case& c : cases)
    check(c, false);
}

TEST_F(Ties, BehindAShiftOrAFactor) {
  const std::vector<Case> cases = {
      {"torch.relu(z - 1)", [](auto& z) { return at::relu(z - 1); }, 1},
      {"torch.relu(1 - z)", [](auto& z) { return at::relu(1 - z); }, 1},
      {"torch.relu(z * 4 + 2)", [](auto& z) { return at::relu(z * 4 + 2); },
       -0.5},
      {"torch.relu6((z + 3) / 2)",
       [](auto& z) { return at::relu6((z + 3) / 2); }, 9},
      {"torch.relu(-z.flip(1).reshape(8, 6).t() - 2).reshape(6, 8)",
       [](auto& z) {
         return at::relu(-z.flip(1).reshape({8, 6}).t() - 2).reshape({6, 8});
       },
       -2}};
  for (const Case& c : cases)
    check(c, false);
}

TEST_F(Ties, KinksAtValuesThatOnlyARunKnowsKeepTheState) {
  const Case c = {"torch.clamp(z, min=z.size(0) / 6.)",
                  [](auto& z) { return at::clamp_min(z, 1); }, 1};
  check(c, true);
}

TEST_F(Ties, ChoicesBetweenElementsKeepTheState) {
  const auto pool = [](const at::Tensor& z) {
    return at::max_pool1d(z, 3, 1, 1);
  };
  const std::vector<Case> cases = {
      {"torch.max_pool1d(z, [3], [1], [1])", pool, 1},
      {"z * torch.amax(z, [1], True)",
       [](auto& z) { return z * at::amax(z, {1}, true); }, 1},
      {"torch.maximum(z, torch.flip(z, [1]))",
       [](auto& z) { return at::maximum(z, at::flip(z, {1})); }, 1},
      {"torch.abs(z - torch.roll(z, [3], [1]))",
       [](auto& z) { return at::abs(z - at::roll(z, {3}, {1})); }, 1},
      {"z * torch.cummax(z, 1)[0]",
       [](auto& z) { return z * std::get<0>(at::cummax(z, 1)); }, 1},
      {"z / torch.norm(z, float('inf'), 1, True)",
       [](auto& z) { return z / at::norm(z, INFINITY, {1}, true); }, 1}};
  for (const Case& c : cases)
    check(c, true);
}

// Types by their numbers, as archives have them: 4 is int64, 7 float64.

TEST_F(Ties, ChoicesInOtherGuise) {
  // A rounding, an integer and a branch that the code makes of numbers.
  // Where a third is one unit less, three of it are no 1.
  const auto whole = [](const at::Tensor& z) {
    return z * (z * 3).to(at::kLong).to(at::kDouble);
  };
  const std::vector<Case> cases = {
      {"z * (z * 3).to(4).to(7)", whole, 1. / 3},
      {"z * torch.zeros([6, 8], dtype=4).copy_(z * 3).to(7)", whole, 1. / 3},
      {"z * torch.zeros_like(z, dtype=4).t().copy_(z.t() * 3).t().to(7)", whole,
       1. / 3},
      {"z * torch.select_scatter(torch.zeros([6, 8], dtype=4), z[0].detach() * "
       "3, 0, 0).to(7)",
       [](auto& z) {
         return z * at::select_scatter(at::zeros({6, 8}, at::kLong),
                                       (z[0] * 3).to(at::kLong), 0, 0);
       },
       1. / 3},
      {"z * torch.sum(z.detach() * 3, 1, True, dtype=4).to(7)",
       [](auto& z) {
         return z * at::sum(z.detach() * 3, {1}, true, at::kLong);
       },
       1. / 3},
      {"z * torch.div(z * 3, 1, rounding_mode='floor')",
       [](auto& z) { return z * at::div(z * 3, 1, "floor"); }, 1. / 3},
      {"z * (2 if float(z[0, 0]) > 0.3333333333333333 else 3)",
       [](auto& z) {
         return z * (z[0][0].template item<double>() > 1. / 3 ? 2 : 3);
       },
       1. / 3},
      {"z * (z * 1e15).round_()",
       [](auto& z) { return z * at::round(z * 1e15); }, 1. / 3},
      {"z * torch.linalg_matrix_norm(z, 1)",
       [](auto& z) { return z * at::linalg_matrix_norm(z, 1); }, 1}};
  for (const Case& c : cases)
    check(c, true);
}

TEST_F(Ties, AStateThatOneStepChoosesByAndAnotherConsumes) {
  // The first keeps its x, which the second hands over.
  StepSpec spec;
  spec.numAux = 0;
  for (const bool chooses : {true, false}) {
    spec.code = chooses ? "def function(self, x: Tensor):\n"
                          "    return torch.where(x > 1, x * 3, x * 2)\n"
                          "def inverse(self, y: Tensor):\n"
                          "    return torch.where(y > 3, y / 3, y / 2)\n"
                        : "def function(self, x: Tensor):\n"
                          "    return torch.leaky_relu(x - 1, 0.5)\n"
                          "def inverse(self, y: Tensor):\n"
                          "    return torch.leaky_relu(y, 2.) + 1\n";
    auto first = makeStep(spec);
    first.setattr(abi::kMode, std::string(abi::kRecompute));
    const auto second = sumStep();
    const at::Tensor w = at::randn({8, 8}, at::kDouble),
                     b = at::randn({8}, at::kDouble);
    const auto run = [&](bool plain) {
      at::manual_seed(3);
      const at::Tensor start = stateWith(1).requires_grad_();
      const at::Tensor x = start * 1, z = start * 2;
      at::Tensor y, q;
      if (plain) {
        y = chooses ? at::where(x > 1, x * 3, x * 2)
                    : at::leaky_relu(x - 1, 0.5);
        q = x + net(z, w, b);
      } else {
        y = bijection(first, {x}, {})[0];
        q = coupling(second, {x}, {z}, {w, b})[0];
      }
      return torch::autograd::grad({(y * y).sum() + q.sin().sum()}, {start});
    };
    EXPECT_LE(distance(run(false), run(true)), 1e-12);
  }
}

TEST_F(Ties, CastsToFloatingTypesAreNoChoice) {
  for (const Case& c : std::vector<Case>{
           {"torch.relu(z.to(7))", [](auto& z) { return at::relu(z); }, 0},
           {"torch.relu(z.type_as(z))", [](auto& z) { return at::relu(z); }, 0},
           {"torch.relu(torch.cumsum(z, 1, dtype=7))",
            [](auto& z) { return at::relu(at::cumsum(z, 1)); }, 0},
           {"torch.relu(torch.zeros_like(z).copy_(z))",
            [](auto& z) { return at::relu(z); }, 0},
           {"torch.relu(torch.zeros([6, 8], dtype=7).t().copy_(z.t()).t())",
            [](auto& z) { return at::relu(z); }, 0}})
    check(c, false);
}

TEST_F(Ties, ACastToACapturesDtypeIsAskedOfTheCapture) {
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor, like: Tensor):\n"
           "    return torch.tanh((z * 1e3).type_as(like).to(7)) * "
           "1e-3\n";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh((z * 1e3).type_as(p[0]).to(at::kDouble)) * 1e-3;
  };
  for (at::ScalarType dtype : {at::kDouble, at::kLong}) {
    c.captures = [=] { return Tensors{at::zeros({1}, dtype)}; };
    Net net(Door::Operator, 2, c);
    resetStats();
    const Tensors ours = run(net, false, 0.001);
    EXPECT_EQ(stats().kept > 0, dtype == at::kLong);
    EXPECT_LE(distance(ours, run(net, true, 0.001)), 1e-12);
  }
}

TEST_F(Ties, ACastToTheDtypeThatAnExtraNamesIsAskedOfTheExtra) {
  StepSpec spec;
  spec.numAux = 0;
  spec.code = "def function(self, x: Tensor, dtype: int):\n"
              "    y = torch.zeros([6, 8], dtype=dtype)\n"
              "    y.copy_(x)\n"
              "    return x * 2 + y.to(7) * 0\n"
              "def inverse(self, y: Tensor, dtype: int):\n"
              "    return y / 2\n";
  for (at::ScalarType dtype : {at::kDouble, at::kLong}) {
    const auto step = makeStep(spec);
    const at::Tensor x =
        (at::arange(48, at::kDouble) * 0.37).view({6, 8}).requires_grad_();
    resetStats();
    const at::Tensor y = bijection(
        step, {x * 1}, {}, c10::ivalue::Tuple::create({int64_t(dtype)}))[0];
    EXPECT_EQ(stats().kept > 0, dtype == at::kLong);
    EXPECT_TRUE(at::equal(y, x * 2));
  }
}

TEST_F(Ties, AnInPlaceKinkIsLikeAnyOther) {
  const std::vector<Case> cases = {
      {"(z * 1).relu_()", [](auto& z) { return at::relu(z); }, 0},
      {"torch.relu((z * 1).add_(-2))", [](auto& z) { return at::relu(z - 2); },
       2}};
  for (const Case& c : cases)
    check(c, false);
}

TEST_F(Ties, AViewSeesWhatIsWrittenLater) {
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor):\n"
           "    h = z * 1\n"
           "    v = h.view(-1)\n"
           "    h.sub_(2)\n"
           "    return 1e-3 * torch.relu(v).view(6, 8)\n";
  c.plain = [](const at::Tensor& z, const Tensors&) {
    return 1e-3 * at::relu(z - 2);
  };
  c.captures = [] { return Tensors(); };
  Net net(Door::Operator, 2, c);
  const Tensors ours = run(net, false, 2);
  EXPECT_LE(distance(ours, run(net, true, 2)), 1e-12);
}

TEST_F(Ties, OfWhatOthersWriteIsTakenTheWorst) {
  // Nobody knows what somebody else's operator does, unless it is said.
  const Case unknown = {"invtest.unknown(z)", [](auto& z) { return z * 2; }, 1};
  check(unknown, true);
  const Case trusted = {"invtest.trusted(z)", [](auto& z) { return z * 2; }, 1};
  trustOperator("invtest::trusted");
  check(trusted, false);
}

TEST_F(Ties, ASmoothConditionerNeedsNothing) {
  const Case c = {"torch.gelu(z) * torch.sigmoid(z)",
                  [](auto& z) { return at::gelu(z) * at::sigmoid(z); }, 0};
  check(c, false);
}

TEST_F(Ties, AStepInsideOfAStepIsLookedInto) {
  StepSpec inner;
  inner.arithmetic = abi::kScaledSum;
  for (const bool chooses : {false, true}) {
    inner.code = std::string("def conditioner(self, z: Tensor):\n    return ") +
                 (chooses ? "torch.sort(z, 1)[0]\n" : "torch.tanh(z)\n");
    StepSpec outer;
    outer.arithmetic = abi::kScaledSum;
    outer.code =
        "def conditioner(self, z: Tensor):\n"
        "    return 1e-3 * torch.tanh(inv.coupling(self.inner, [z * 2],"
        " [z], [], None)[0])\n";
    const auto step = makeStep(outer, {{"inner", makeStep(inner)}});
    const auto f = [&](const at::Tensor& z) {
      return 1e-3 * at::tanh(z * 2 + (chooses ? std::get<0>(at::sort(z, 1))
                                              : at::tanh(z)));
    };
    const auto run = [&](bool plain) {
      at::manual_seed(3);
      const Tensors x = leaves({stateWith(1), stateWith(1)});
      at::Tensor a = x[0] * 1, b = x[1] * 1;
      for (int i = 0; i < 3; i++) {
        Tensors out =
            plain ? Tensors{a + f(b), b} : coupling(step, {a}, {b}, {});
        a = out[1];
        b = out[0];
      }
      return torch::autograd::grad(
          {(a.sin() * at::arange(8, at::kDouble)).sum() + b.sin().sum()}, x);
    };
    resetStats();
    const Tensors ours = run(false);
    EXPECT_EQ(stats().kept > 0, chooses);
    EXPECT_LE(distance(ours, run(true)), 1e-12);
  }
}

} // namespace
} // namespace inv::test
