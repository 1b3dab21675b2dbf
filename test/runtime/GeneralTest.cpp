// Steps that are more than a sum: affine couplings, linear and other
// bijections, recompute steps, sides, scratch captures, random numbers; and the
// run-time checks.
#include "Nets.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/engine.h>

#include <unordered_set>

namespace inv::test {
namespace {

class General : public testing::Test {
protected:
  void SetUp() override {
    at::manual_seed(11);
    resetStats();
  }
  void TearDown() override { expectNothingAlive(); }
  static at::Tensor random(c10::IntArrayRef sizes) {
    return at::randn(sizes, at::kDouble);
  }
};

/// Affine coupling with the log-determinant as side output.
StepSpec affineSpec() {
  StepSpec spec;
  spec.numAux = 2;
  spec.numSides = 1;
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, v: Tensor):
    s = torch.tanh(torch.linear(z, w))
    return torch.exp(s), torch.linear(torch.tanh(z), v), s.sum(1)
def function(self, x: Tensor, s: Tensor, t: Tensor):
    return x * s + t
def inverse(self, y: Tensor, s: Tensor, t: Tensor):
    return (y - t) / s
)";
  return spec;
}

Tensors affine(const at::Tensor& x, const at::Tensor& z, const at::Tensor& w,
               const at::Tensor& v) {
  const at::Tensor s = at::tanh(at::linear(z, w));
  return {x * at::exp(s) + at::linear(at::tanh(z), v), s.sum(1), z};
}

TEST_F(General, AffineCouplingChain) {
  auto step = makeStep(affineSpec());
  const auto chain = [](const auto& one) {
    return [one](const Tensors& in) {
      at::Tensor a = in[0], b = in[1], det = at::zeros({}, at::kDouble);
      for (int i = 0; i < 4; i++) {
        const Tensors out = one(a, b, in[2], in[3]);
        det = det + out[1];
        a = out[2];
        b = out[0];
      }
      return Tensors{a, b, det};
    };
  };
  compare(chain([&](const at::Tensor& x, const at::Tensor& z,
                    const at::Tensor& w, const at::Tensor& v) {
            return coupling(step, {x}, {z}, {w, v});
          }),
          chain(&affine),
          {random({5, 4}), random({5, 4}), random({4, 4}), random({4, 4})},
          1e-12);
  EXPECT_EQ(stats().kept, 0);
  EXPECT_EQ(stats().pulls, 0);
  // Forward and backward, and of the second run the second derivative as well.
  EXPECT_EQ(stats().conditioners, 4 * (2 + 3));
}

TEST_F(General, OnlyTheSideOutputInTheLoss) {
  auto step = makeStep(affineSpec());
  compare(
      [&](const Tensors& in) {
        return Tensors{coupling(step, {in[0]}, {in[1]}, {in[2], in[3]})[1]};
      },
      [&](const Tensors& in) {
        return Tensors{affine(in[0], in[1], in[2], in[3])[1]};
      },
      {random({5, 4}), random({5, 4}), random({4, 4}), random({4, 4})}, 1e-12);
}

TEST_F(General, AHookIsNotCalledWhereTheLossDoesNotReachItsTensor) {
  // The step runs for its other output.
  auto step = makeStep(affineSpec());
  const Tensors in =
      leaves({random({5, 4}), random({5, 4}), random({4, 4}), random({4, 4})});
  const Tensors out = coupling(step, {in[0]}, {in[1]}, {in[2], in[3]});
  int y = 0, side = 0;
  out[0].register_hook([&](const at::Tensor&) { y++; });
  out[1].register_hook([&](const at::Tensor&) { side++; });
  out[1].sum().backward({}, /*retain_graph=*/true);
  EXPECT_EQ(y, 0);
  EXPECT_EQ(side, 1);
  out[0].sum().backward();
  EXPECT_EQ(y, 1);
  EXPECT_EQ(side, 1);
}

/// Nodes of that name behind `outputs`, each once.
size_t countNodes(const Tensors& outputs, const std::string& name) {
  std::unordered_set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open;
  size_t count = 0;
  const auto meet = [&](const std::shared_ptr<torch::autograd::Node>& node) {
    if (node && seen.insert(node.get()).second) {
      open.push_back(node.get());
      count += node->name() == name ? 1 : 0;
    }
  };
  for (const at::Tensor& t : outputs)
    meet(t.grad_fn());
  while (!open.empty()) {
    const auto* node = open.back();
    open.pop_back();
    for (const auto& edge : node->next_edges())
      meet(edge.function);
  }
  return count;
}

TEST_F(General, AStateThatNobodyElseHasCostsNoNodeOfItsOwn) {
  const Tensors x = leaves({random({5, 4}), random({5, 4})});
  for (const int64_t steps : {4, 9}) {
    // Of a model only its results can be looked at; who calls operators has
    // all.
    Net model(Door::Archive, steps, tanhNet(4));
    EXPECT_EQ(countNodes(model(x[0], x[1]), "InvStepOutputBackward"), 2u);
    Net calls(Door::Operator, steps, tanhNet(4));
    EXPECT_EQ(countNodes(calls(x[0], x[1]), "InvStepOutputBackward"),
              static_cast<size_t>(steps));
  }
}

/// A call that is the last to have its states.
Tensors callWithItsOwn(const torch::jit::Module& step, Tensors x, Tensors z,
                       const Tensors& captures) {
  torch::jit::Stack stack;
  stack.emplace_back(step._ivalue());
  stack.emplace_back(std::move(x));
  stack.emplace_back(std::move(z));
  stack.emplace_back(captures);
  stack.emplace_back();
  c10::Dispatcher::singleton()
      .findSchemaOrThrow(abi::kCoupling, "")
      .callBoxed(&stack);
  return stack.back().toTensorVector();
}

TEST_F(General, WhatWasAskedOfAStateThatIsGoneIsStillDone) {
  // A hook, or somebody who has the place in the graph, before the state goes.
  namespace ag = torch::autograd;
  const auto step = sumStep();
  const Tensors in =
      leaves({random({5, 4}), random({5, 4}), random({4, 4}), random({4})});
  enum What { Nothing, Hook, Edge };
  const auto run = [&](What what, bool plain) {
    Tensors s = plain ? Tensors{in[0] + net(in[1], in[2], in[3]), in[1]}
                      : coupling(step, {in[0]}, {in[1]}, {in[2], in[3]});
    at::Tensor y = std::move(s[0]), z = std::move(s[1]);
    s.clear();
    ag::edge_list asked = {ag::impl::gradient_edge(in[0])};
    if (what == Hook)
      y.register_hook([](const at::Tensor& g) { return g * 2; });
    if (what == Edge)
      asked.push_back(ag::impl::gradient_edge(y));
    if (plain) {
      s = {z + net(y, in[2], in[3]), y};
    } else {
      Tensors own = {std::move(y)};
      s = callWithItsOwn(step, {std::move(z)}, std::move(own), {in[2], in[3]});
      EXPECT_EQ(countNodes(s, "InvStepOutputBackward"),
                what == Nothing ? 1u : 2u);
    }
    const at::Tensor loss = s[0].sin().sum() + s[1].exp().sum();
    return Tensors(ag::Engine::get_default_engine().execute(
        {ag::impl::gradient_edge(loss)}, {at::ones_like(loss)}, false, false,
        false, asked));
  };
  for (const What what : {Nothing, Hook, Edge})
    EXPECT_LE(distance(run(what, false), run(what, true)), 1e-12) << what;
}

TEST_F(General, CapturesAndExtrasOfTheFunction) {
  StepSpec spec;
  spec.functionCaptures = {1};
  spec.functionExtras = {1};
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, scale: Tensor, on: bool, k: float):
    h = torch.linear(z, w) * scale * k
    if on:
        h = torch.tanh(h)
    return h
def function(self, x: Tensor, f: Tensor, scale: Tensor, k: float):
    return x * scale + f * k
def inverse(self, y: Tensor, f: Tensor, scale: Tensor, k: float):
    return (y - f * k) / scale
)";
  auto step = makeStep(spec);
  const c10::IValue extras = c10::ivalue::Tuple::create({true, 0.5});
  compare(
      [&](const Tensors& in) {
        const auto one = [&](const at::Tensor& x, const at::Tensor& z) {
          return coupling(step, {x}, {z}, {in[2], in[3]}, extras);
        };
        const Tensors first = one(in[0], in[1]);
        return one(first[1], first[0]);
      },
      [&](const Tensors& in) {
        const auto one = [&](const at::Tensor& x, const at::Tensor& z) {
          const at::Tensor h = at::tanh(at::linear(z, in[2]) * in[3] * 0.5);
          return x * in[3] + h * 0.5;
        };
        const at::Tensor y = one(in[0], in[1]);
        return Tensors{one(in[1], y), y};
      },
      {random({5, 4}), random({5, 4}), random({4, 4}),
       random({4}).abs().add_(0.5)},
      1e-12);
}

/// Wide linear layers undone by least squares, with leaky ReLU between.
TEST_F(General, LinearChain) {
  StepSpec linear;
  linear.numAux = 0;
  linear.arithmetic = abi::kLinear;
  linear.code = R"(
def function(self, x: Tensor, w: Tensor, b: Tensor):
    return torch.linear(x, w, b)
def inverse(self, y: Tensor, w: Tensor, b: Tensor):
    return torch.linear(y - b, torch.pinverse(w))
)";
  StepSpec leaky;
  leaky.numAux = 0;
  leaky.code = R"(
def function(self, x: Tensor):
    return torch.leaky_relu(x, 0.1)
def inverse(self, y: Tensor):
    return torch.leaky_relu(y, 10.)
)";
  auto linearStep = makeStep(linear), leakyStep = makeStep(leaky);
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{6, 4}, {2, 3, 4}, {4}})
    compare(
        [&](const Tensors& in) {
          const at::Tensor h =
              bijection(linearStep, {in[0]}, {in[1], in[2]})[0];
          const at::Tensor a = bijection(leakyStep, {h}, {})[0];
          return bijection(linearStep, {a}, {in[3], in[4]});
        },
        [&](const Tensors& in) {
          return Tensors{
              at::linear(at::leaky_relu(at::linear(in[0], in[1], in[2]), 0.1),
                         in[3], in[4])};
        },
        {random(sizes), random({5, 4}), random({5}), random({7, 5}),
         random({7})},
        1e-11);
  EXPECT_EQ(stats().kept, 0);
}

TEST_F(General, ALinearStepRunsItsFunctionOnce) {
  StepSpec spec;
  spec.numAux = 0;
  spec.arithmetic = abi::kLinear;
  spec.code = R"(
def function(self, x: Tensor, w: Tensor):
    return torch.linear(x, w)
def inverse(self, y: Tensor, w: Tensor):
    return torch.linear(y, torch.inverse(w))
)";
  auto step = makeStep(spec);
  at::Tensor w = random({4, 4}).requires_grad_();
  bijection(step, {random({3, 4})}, {w})[0].sum().backward();
  EXPECT_EQ(stats().functions, 1);
  EXPECT_EQ(stats().inverses, 1);
}

TEST_F(General, ABijectionWithTwoStates) {
  StepSpec spec;
  spec.numAux = 0;
  spec.numStates = 2;
  spec.code = R"(
def function(self, a: Tensor, b: Tensor):
    return b, a * 2.
def inverse(self, b: Tensor, a: Tensor):
    return a / 2., b
)";
  auto step = makeStep(spec);
  compare(
      [&](const Tensors& in) {
        return bijection(step, bijection(step, {in[0], in[1]}, {}), {});
      },
      [&](const Tensors& in) {
        return Tensors{in[0] * 2, in[1] * 2};
      },
      {random({3}), random({3})}, 1e-13);
}

/// Recompute steps between couplings: y = x + C(x), with x rebuilt later.
TEST_F(General, CheckpointInAChain) {
  StepSpec spec;
  spec.numStates = 0;
  spec.numAux = 0;
  spec.numSides = 1;
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return z + torch.tanh(torch.linear(z, w, b))
)";
  auto residual = makeStep(spec);
  auto sum = sumStep();
  compare(
      [&](const Tensors& in) {
        const Tensors first = checkpoint(residual, {in[0]}, {in[1], in[2]});
        const Tensors second =
            coupling(sum, {first[1]}, {first[0]}, {in[1], in[2]});
        return coupling(sum, {second[1]}, {second[0]}, {in[1], in[2]});
      },
      [&](const Tensors& in) {
        const at::Tensor y = in[0] + at::tanh(at::linear(in[0], in[1], in[2]));
        const at::Tensor b = in[0] + net(y, in[1], in[2]);
        return Tensors{y + net(b, in[1], in[2]), b};
      },
      {random({5, 4}), random({4, 4}), random({4})}, 1e-12);
  EXPECT_EQ(stats().pulls, 0);
}

// -------------------------------------------------------- effects of replays

TEST_F(General, BatchNormStatisticsMoveOnce) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.scratch = {1, 2};
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, mean: Tensor, var: Tensor):
    h = torch.linear(z, w)
    return torch.batch_norm(h, None, None, mean, var, True, 0.1, 1e-5, False)
)";
  auto step = makeStep(spec);
  const auto run = [&](bool plain, Tensors& buffers) {
    at::manual_seed(3);
    Tensors x = leaves({random({6, 4}), random({6, 4}), random({4, 4})});
    buffers = {at::zeros({4}, at::kDouble), at::ones({4}, at::kDouble)};
    at::Tensor y;
    if (plain)
      y = x[0] + at::batch_norm(at::linear(x[1], x[2]), {}, {}, buffers[0],
                                buffers[1], true, 0.1, 1e-5, false);
    else
      y = coupling(step, {x[0]}, {x[1]}, {x[2], buffers[0], buffers[1]})[0];
    y.sin().sum().backward();
    return gradsOf(x);
  };
  Tensors ours, reference;
  EXPECT_LE(distance(run(false, ours), run(true, reference)), 1e-12);
  EXPECT_TRUE(at::equal(ours[0], reference[0]));
  EXPECT_TRUE(at::equal(ours[1], reference[1]));
}

StepSpec dropoutSpec() {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor):
    return torch.dropout(torch.tanh(torch.linear(z, w)), 0.5, True)
)";
  return spec;
}

TEST_F(General, DropoutDrawsTheSameMaskAgain) {
  auto step = makeStep(dropoutSpec());
  const auto run = [&](bool plain, at::Tensor& next) {
    at::manual_seed(3);
    Tensors x = leaves({random({6, 4}), random({6, 4}), random({4, 4})});
    at::Tensor a = x[0], b = x[1];
    for (int i = 0; i < 3; i++) {
      const at::Tensor y =
          plain ? a + at::dropout(at::tanh(at::linear(b, x[2])), 0.5, true)
                : coupling(step, {a}, {b}, {x[2]})[0];
      a = b;
      b = y;
    }
    b.sin().sum().backward();
    next = random({2}); // the user's own numbers are not disturbed
    return gradsOf(x);
  };
  at::Tensor ours, reference;
  EXPECT_LE(distance(run(false, ours), run(true, reference)), 1e-12);
  EXPECT_TRUE(at::equal(ours, reference));
  EXPECT_EQ(stats().rngSaved, 3);
}

TEST_F(General, WithoutPreserveRngTheMaskIsDrawnAnew) {
  auto step = makeStep(dropoutSpec());
  step.setattr("preserve_rng", false);
  Tensors x = leaves({random({6, 4}), random({6, 4}), random({4, 4})});
  coupling(step, {x[0]}, {x[1]}, {x[2]})[0].sum().backward();
  EXPECT_EQ(stats().rngSaved, 0);
}

TEST_F(General, AutocastIsReplayed) {
  auto step = sumStep();
  const auto run = [&](bool plain) {
    at::manual_seed(3);
    Tensors x = leaves({at::randn({6, 4}), at::randn({6, 4}), at::randn({4, 4}),
                        at::randn({4})});
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::Tensor y = plain ? x[0] + net(x[1], x[2], x[3])
                         : coupling(step, {x[0]}, {x[1]}, {x[2], x[3]})[0];
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    y.sin().sum().backward();
    Tensors result = gradsOf(x);
    result.push_back(y.detach());
    return result;
  };
  EXPECT_EQ(run(true).back().scalar_type(), at::kFloat);
  EXPECT_LE(distance(run(false), run(true)), 1e-2); // bfloat16 sums
  EXPECT_TRUE(at::equal(run(false).back(), run(true).back()));
}

// --------------------------------------------------------- run-time checks

TEST_F(General, ABroadcastStateIsKeptAndCounted) {
  auto step = sumStep();
  compare(
      [&](const Tensors& in) {
        return coupling(step, {in[0]}, {in[1]}, {in[2], in[3]});
      },
      [&](const Tensors& in) {
        return Tensors{in[0] + net(in[1], in[2], in[3]), in[1]};
      },
      {random({1, 4}), random({5, 4}), random({4, 4}), random({4})}, 1e-12);
  EXPECT_EQ(stats().kept, 2);
}

TEST_F(General, ABroadcastConditionerIsNotKept) {
  auto step = sumStep();
  compare(
      [&](const Tensors& in) {
        return coupling(step, {in[0]}, {in[1]}, {in[2], in[3]});
      },
      [&](const Tensors& in) {
        return Tensors{in[0] + net(in[1], in[2], in[3]), in[1]};
      },
      {random({5, 4}), random({1, 4}), random({4, 4}), random({4})}, 1e-12);
  EXPECT_EQ(stats().kept, 0);
}

TEST_F(General, ABroadcastStateOfAGeneralFunctionIsKept) {
  auto step = makeStep(affineSpec());
  compare(
      [&](const Tensors& in) {
        return coupling(step, {in[0]}, {in[1]}, {in[2], in[3]});
      },
      [&](const Tensors& in) { return affine(in[0], in[1], in[2], in[3]); },
      {random({1, 4}), random({5, 4}), random({4, 4}), random({4, 4})}, 1e-12);
  EXPECT_EQ(stats().kept, 2);
}

TEST_F(General, APromotedStateIsKept) {
  auto step = sumStep();
  Tensors x =
      leaves({at::randn({5, 4}), random({5, 4}), random({4, 4}), random({4})});
  const at::Tensor y = coupling(step, {x[0]}, {x[1]}, {x[2], x[3]})[0];
  EXPECT_EQ(y.scalar_type(), at::kDouble);
  EXPECT_EQ(stats().kept, 1);
  y.sin().sum().backward();
  const Tensors ours = gradsOf(x);
  Tensors r = leaves(x);
  (r[0] + net(r[1], r[2], r[3])).sin().sum().backward();
  EXPECT_LE(distance(ours, gradsOf(r)), 1e-6);
}

TEST_F(General, ReducedPrecisionStatesAreKept) {
  auto step = sumStep();
  Tensors x = leaves({at::randn({5, 4}), at::randn({5, 4}), at::randn({4, 4}),
                      at::randn({4})});
  for (at::Tensor& t : x)
    t = t.detach().to(at::kBFloat16).requires_grad_();
  const at::Tensor y = coupling(step, {x[0]}, {x[1]}, {x[2], x[3]})[0];
  EXPECT_EQ(stats().kept, 1);
  y.sum().backward();
  const Tensors ours = gradsOf(x);
  Tensors r = leaves(x);
  (r[0] + net(r[1], r[2], r[3])).sum().backward();
  EXPECT_EQ(distance(ours, gradsOf(r)), 0);
}

TEST_F(General, WhatIsNoStepIsRefused) {
  torch::jit::Module module("NoStep");
  Tensors x = {random({2, 2}), random({2, 2})};
  const std::string message =
      messageOf([&] { coupling(module, {x[0]}, {x[1]}, {}); });
  EXPECT_NE(message.find("is not a step"), std::string::npos) << message;
}

TEST_F(General, AMissingArgumentIsAnErrorThatNamesTheStep) {
  auto step = sumStep();
  Tensors x = {random({2, 2}), random({2, 2})};
  const std::string message =
      messageOf([&] { coupling(step, {x[0]}, {x[1]}, {x[0]}); });
  EXPECT_NE(message.find("blocks.3"), std::string::npos) << message;
}

} // namespace
} // namespace inv::test
