// Tensors that are several things at once: captures that are states, or made of
// them, or views; arguments twice; what the code of a step may reach besides
// its arguments.
#include "Steps.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace inv::test {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

at::Tensor random(c10::IntArrayRef sizes) {
  return at::randn(sizes, at::kDouble);
}

class Ownership : public testing::Test {
protected:
  void SetUp() override {
    at::manual_seed(51);
    resetStats();
    TestOps::reset();
  }
  void TearDown() override { expectNothingAlive(); }

  /// y = x + tanh(z * w), with w a capture.
  static torch::jit::Module product() {
    StepSpec spec;
    spec.arithmetic = abi::kScaledSum;
    spec.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
                "    return torch.tanh(z * w)\n";
    return makeStep(spec);
  }
  static Tensors plainProduct(const at::Tensor& x, const at::Tensor& z,
                              const at::Tensor& w) {
    return {x + at::tanh(z * w), z};
  }
};

using One = std::function<Tensors(const at::Tensor& x, const at::Tensor& z,
                                  const at::Tensor& w)>;

/// Three steps; the second has a capture made of a state that the third
/// consumes.
Tensors gated(const Tensors& in, const One& step) {
  Tensors s = step(in[0], in[1], in[2]);
  const at::Tensor gate = (s[0] * 2).sin();
  const Tensors t = step(s[1], s[0], gate);
  s.clear();
  return step(t[1], t[0], gate);
}

TEST_F(Ownership, ACaptureMadeOfAStateThatIsConsumedLater) {
  const auto step = product();
  compare(
      [&](const Tensors& in) {
        return gated(in, [&](auto& x, auto& z, auto& w) {
          return coupling(step, {x}, {z}, {w});
        });
      },
      [&](const Tensors& in) { return gated(in, &plainProduct); },
      {random({5, 4}), random({5, 4}), random({4})}, 1e-12);
}

TEST_F(Ownership, SuchACaptureKeepsNothingAlive) {
  // Through the capture's history, the state's record must not own itself.
  const auto step = product();
  const auto make = [&] {
    const Tensors in = leaves({random({5, 4}), random({5, 4}), random({4})});
    return gated(in, [&](auto& x, auto& z, auto& w) {
      return coupling(step, {x}, {z}, {w});
    });
  };
  make(); // and no backward
  expectNothingAlive();
  {
    const Tensors y = make();
    (y[0].sum() + y[1].sum()).backward({}, /*retain_graph=*/true);
  }
  expectNothingAlive();
}

TEST_F(Ownership, TheStateItselfIsACapture) {
  const auto step = product();
  const auto chain = [](const Tensors& in, const One& one) {
    Tensors s = one(in[0], in[1], in[1]);      // z is the capture,
    Tensors t = one(s[1], s[0], s[0]);         // a state that is rebuilt,
    return one(t[1], t[0], t[1].select(0, 0)); // and a view of x
  };
  compare(
      [&](const Tensors& in) {
        return chain(in, [&](auto& x, auto& z, auto& w) {
          return coupling(step, {x}, {z}, {w});
        });
      },
      [&](const Tensors& in) { return chain(in, &plainProduct); },
      {random({5, 4}), random({5, 4})}, 1e-12);
}

TEST_F(Ownership, CapturesThatShareMemory) {
  const auto step = product();
  const auto chain = [](const Tensors& in, const One& one) {
    const at::Tensor w = in[2]; // rows of one parameter, one of them twice
    Tensors s = one(in[0], in[1], w[0]);
    s = one(s[1], s[0], w[1]);
    s = one(s[1], s[0], w[0]);
    return one(s[1], s[0], w.sum(0));
  };
  compare(
      [&](const Tensors& in) {
        return chain(in, [&](auto& x, auto& z, auto& w) {
          return coupling(step, {x}, {z}, {w});
        });
      },
      [&](const Tensors& in) { return chain(in, &plainProduct); },
      {random({5, 4}), random({5, 4}), random({2, 4})}, 1e-12);
}

TEST_F(Ownership, ACaptureChangedThroughAViewIsAnError) {
  const auto step = product();
  const at::Tensor w = random({2, 4}).requires_grad_();
  const Tensors x = leaves({random({5, 4}), random({5, 4})});
  const at::Tensor y = coupling(step, {x[0]}, {x[1]}, {w[0]})[0];
  w.detach().select(0, 1).mul_(2); // the other row: one counter for both
  EXPECT_TRUE(contains(messageOf([&] { y.sum().backward(); }),
                       "modified by an inplace operation"));
}

TEST_F(Ownership, OneTensorInSeveralPlaces) {
  StepSpec spec;
  spec.numStates = 2;
  spec.code = "def conditioner(self, a: Tensor, b: Tensor):\n"
              "    return torch.tanh(a + 2 * b)\n"
              "def function(self, x: Tensor, y: Tensor, f: Tensor):\n"
              "    return x + f, y * 2 + f\n"
              "def inverse(self, x: Tensor, y: Tensor, f: Tensor):\n"
              "    return x - f, (y - f) / 2\n";
  const auto step = makeStep(spec);
  const auto chain = [](const Tensors& in, const auto& one) {
    const at::Tensor a = in[0] * 1, b = in[1] * 1;
    const Tensors y = one(a, a, b, b);             // x twice, z twice
    const Tensors z = one(y[0], y[1], y[0], y[2]); // x and z at once
    return Tensors{z[0], z[1], z[2], z[3], a * 3, y[3]};
  };
  compare(
      [&](const Tensors& in) {
        return chain(in, [&](auto& a, auto& b, auto& c, auto& d) {
          return coupling(step, {a, b}, {c, d}, {});
        });
      },
      [&](const Tensors& in) {
        return chain(in, [](auto& a, auto& b, auto& c, auto& d) {
          const at::Tensor f = at::tanh(c + 2 * d);
          return Tensors{a + f, b * 2 + f, c, d};
        });
      },
      {random({5, 4}), random({5, 4})}, 1e-12);
}

TEST_F(Ownership, AFunctionThatReturnsItsInput) {
  StepSpec spec;
  spec.numAux = 0;
  spec.code = "def function(self, x: Tensor):\n    return x\n"
              "def inverse(self, y: Tensor):\n    return y\n";
  const auto same = makeStep(spec);
  const auto step = product();
  const auto chain = [](const Tensors& in, const auto& identity,
                        const One& one) {
    const at::Tensor a = identity(in[0] * 1);
    const Tensors s = one(a, in[1], in[2]);
    return Tensors{identity(identity(s[0])), s[1], a};
  };
  compare(
      [&](const Tensors& in) {
        return chain(
            in,
            [&](const at::Tensor& x) { return bijection(same, {x}, {})[0]; },
            [&](auto& x, auto& z, auto& w) {
              return coupling(step, {x}, {z}, {w});
            });
      },
      [&](const Tensors& in) {
        return chain(
            in, [](const at::Tensor& x) { return x; }, &plainProduct);
      },
      {random({5, 4}), random({5, 4}), random({4})}, 1e-12);
}

TEST_F(Ownership, AStateThatWasReadThroughHasTheGradientOfItsLaterUsesOnly) {
  // See abi::kCoupling: inv-opt hands the caller the tensor that the step read.
  const auto step = product();
  const Tensors in = leaves({random({5, 4}), random({5, 4}), random({4})});
  const at::Tensor z = in[1] * 1;
  const Tensors out = coupling(step, {in[0]}, {z}, {in[2]});
  const at::Tensor loss = out[0].sum() + out[1].sin().sum();
  const Tensors g = torch::autograd::grad({loss}, {out[1], z}, {}, true);
  EXPECT_LE(distance(g[0], z.cos()), 1e-13);
  const at::Tensor inside = in[2] * (1 - at::tanh(z * in[2]).pow(2));
  EXPECT_LE(distance(g[1], (z.cos() + inside).detach()), 1e-13);
}

// ----------------------------------------------- what the code of a step does

TEST_F(Ownership, CodeThatWritesItsStateThroughAViewIsRefused) {
  for (const char* code :
       {"z.view(-1).mul_(2)", "z.t().add_(1)",
        "torch.dropout(z, 0.5, False).mul_(2)",
        "torch.chunk(z, 2, 1)[0].zero_()", "z.contiguous().mul_(2)"}) {
    StepSpec spec;
    spec.arithmetic = abi::kScaledSum;
    spec.code = std::string("def conditioner(self, z: Tensor):\n") +
                "    return torch.tanh(" + code + ")\n";
    const at::Tensor z = random({4, 4}), before = z.clone();
    const at::Tensor x = random({4, 4}).requires_grad_();
    EXPECT_TRUE(
        contains(messageOf([&] { coupling(makeStep(spec), {x}, {z}, {}); }),
                 "writes the state"))
        << code;
    EXPECT_TRUE(at::equal(z, before));
  }
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh((z * 1).view(-1).mul_(2).view(4, 4))\n";
  const at::Tensor x = random({4, 4}).requires_grad_();
  coupling(makeStep(spec), {x}, {random({4, 4})}, {}); // its own tensor
}

TEST_F(Ownership, CodeThatForksIsLeftToPlainAutograd) {
  // Its parts would wait for the generator that the step holds.
  StepSpec inner;
  inner.arithmetic = abi::kScaledSum;
  inner.code = "def conditioner(self, z: Tensor):\n"
               "    return torch.dropout(z, 0.5, True)\n";
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = R"(
def part(self, z: Tensor):
    return torch.dropout(inv.coupling(self.inner, [z], [z], [], None)[0], 0.5,
                         True)
def conditioner(self, z: Tensor):
    return torch.tanh(torch.wait(fork(self.part, z)))
)";
  const auto step = makeStep(spec, {{"inner", makeStep(inner)}});
  const at::Tensor z = (random({50}) / 10).requires_grad_();
  const at::Tensor y =
      coupling(step, {at::zeros({50}, at::kDouble)}, {z}, {})[0];
  EXPECT_GT(stats().kept, 0);
  // Each element is tanh(k z) with the masks' k, and so is its gradient's.
  const at::Tensor g = torch::autograd::grad({y.sum()}, {z})[0];
  const at::Tensor k = at::atanh(y.detach()) / z.detach();
  EXPECT_LE(distance(g, k * (1 - y.detach().pow(2))), 1e-9);
}

TEST_F(Ownership, ATensorThatTheStepHoldsIsLeftToPlainAutograd) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(z * self.weight)\n";
  const at::Tensor w = random({4}).requires_grad_();
  const auto step = makeStep(spec, {}, {{"weight", w}});
  const Tensors x = leaves({random({5, 4}), random({5, 4})});
  const auto run = [&](bool plain) {
    const at::Tensor y = plain ? x[0] + at::tanh(x[1] * w)
                               : coupling(step, {x[0]}, {x[1]}, {})[0];
    return torch::autograd::grad({y.sin().sum()}, {x[0], x[1], w});
  };
  EXPECT_EQ(distance(run(false), run(true)), 0);
  EXPECT_GT(stats().kept, 0);
}

TEST_F(Ownership, SwitchesOfTheForwardHoldInItsReplay) {
  // with torch.backends.mkldnn.flags(enabled=False): y = model(x)
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(invtest.by_switch(z))\n";
  const auto step = makeStep(spec);
  auto& context = at::globalContext();
  const bool before = context.userEnabledMkldnn();
  const Tensors x = leaves({random({5, 4}), random({5, 4})});
  context.setUserEnabledMkldnn(!before);
  const double k = before ? 3 : 2;
  const at::Tensor y = coupling(step, {x[0]}, {x[1]}, {})[0];
  context.setUserEnabledMkldnn(before);
  const at::Tensor g = torch::autograd::grad({y.sum()}, {x[1]})[0];
  EXPECT_EQ(context.userEnabledMkldnn(), before);
  EXPECT_LE(distance(g, (k * (1 - at::tanh(x[1] * k).pow(2))).detach()), 1e-13);
}

TEST_F(Ownership, SparseGradientsOfStates) {
  // A state that is used as the table of an embedding, once as it is made and
  // once after it was read through.
  const auto step = product();
  const at::Tensor places = at::tensor({0, 2, 2}, at::kLong);
  const auto table = [&](const at::Tensor& weight) {
    return at::embedding(weight, places, -1, false, /*sparse=*/true)
        .sin()
        .sum();
  };
  const auto run = [&](bool plain) {
    const Tensors in = leaves({random({5, 4}), random({5, 4}), random({4})});
    const auto one = [&](const at::Tensor& x, const at::Tensor& z) {
      return plain ? plainProduct(x, z, in[2])
                   : coupling(step, {x}, {z}, {in[2]});
    };
    const Tensors s = one(in[0] * 1, in[1] * 1);
    const Tensors t = one(s[1], s[0]);
    Tensors g = torch::autograd::grad(
        {t[0].sin().sum() + table(t[1]) + table(s[0])}, in);
    for (at::Tensor& e : g)
      e = e.is_sparse() ? e.to_dense() : e;
    return g;
  };
  at::manual_seed(1);
  const Tensors ours = run(false);
  at::manual_seed(1);
  EXPECT_LE(distance(ours, run(true)), 1e-13);
}

TEST_F(Ownership, AGrowthOfSeveralNumbersIsAnErrorThatNamesTheStep) {
  StepSpec spec;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(z)\n"
              "def function(self, x: Tensor, f: Tensor):\n"
              "    return x * 2 + f\n"
              "def inverse(self, y: Tensor, f: Tensor):\n"
              "    return (y - f) / 2\n"
              "def growth(self, y: Tensor, f: Tensor):\n"
              "    return f\n";
  const at::Tensor x = random({5, 4}).requires_grad_();
  const std::string message =
      messageOf([&] { coupling(makeStep(spec), {x}, {x}, {}); });
  EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
  EXPECT_TRUE(contains(message, "growth")) << message;
}

} // namespace
} // namespace inv::test
