// What users do to graphs: change tensors, run backward twice, partly, or not
// at all, throw, and use threads.
#include "Steps.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <thread>

namespace inv::test {
namespace {

/// autograd::grad in which inputs that nothing depends on are undefined: our
/// steps know of fewer of those than plain autograd.
Tensors grad(const Tensors& of, const Tensors& to, bool retain = false,
             bool create = false) {
  return torch::autograd::grad(of, to, {}, retain, create,
                               /*allow_unused=*/true);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Life : public testing::Test {
protected:
  void SetUp() override { at::manual_seed(7); }
  void TearDown() override {
    chain = Chain(0, 8, at::kDouble);
    expectNothingAlive();
  }

  /// Gradients of the inputs and all parameters of `loss(chain(inputs))`, by
  /// autograd::grad.
  Tensors gradients(bool plain,
                    const std::function<at::Tensor(const Tensors& x,
                                                   const Tensors& y)>& loss) {
    Tensors x = leaves(inputs);
    const Tensors y = plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
    Tensors wanted = x;
    wanted.insert(wanted.end(), chain.parameters.begin(),
                  chain.parameters.end());
    return grad({loss(x, y)}, wanted);
  }

  Chain chain{4, 8, at::kDouble};
  Tensors inputs = {at::randn({5, 8}, at::kDouble),
                    at::randn({5, 8}, at::kDouble)};
};

TEST_F(Life, ACallersInputIsReadBeforeAndAfter) {
  const auto loss = [](const Tensors& x, const Tensors& y) {
    return (y[0] * x[0].exp() + x[1].tanh() * y[1]).sum();
  };
  EXPECT_LE(distance(gradients(false, loss), gradients(true, loss)), 1e-13);
}

TEST_F(Life, OneOutputInTheLoss) {
  const auto loss = [](const Tensors&, const Tensors& y) {
    return y[0].sin().sum();
  };
  EXPECT_LE(distance(gradients(false, loss), gradients(true, loss)), 1e-13);
}

TEST_F(Life, AnOutputChangedInPlaceIsAnErrorThatNamesTheStep) {
  Tensors x = leaves(inputs);
  const Tensors y = chain.run(x[0], x[1]);
  const at::Tensor loss = y[0].sum() + y[1].sum();
  y[1].detach().mul_(2);
  const std::string message = messageOf([&] { loss.backward(); });
  EXPECT_TRUE(contains(message, "modified by an inplace operation")) << message;
  EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
}

TEST_F(Life, AWeightChangedInPlaceIsAnErrorThatNamesStepAndCapture) {
  Tensors x = leaves(inputs);
  const Tensors y = chain.run(x[0], x[1]);
  chain.parameters[5].detach().mul_(2);
  const std::string message = messageOf([&] { y[0].sum().backward(); });
  EXPECT_TRUE(contains(message, "modified by an inplace operation")) << message;
  EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
  EXPECT_TRUE(contains(message, "capture 1")) << message;
}

TEST_F(Life, AWeightChangedAfterBackwardIsNoError) {
  Tensors x = leaves(inputs);
  chain.run(x[0], x[1])[0].sum().backward();
  chain.parameters[5].detach().mul_(2);
  chain.run(x[0], x[1])[0].sum().backward();
}

TEST_F(Life, RetainGraphGivesTheSameGradientsAgain) {
  Tensors x = leaves(inputs);
  const Tensors y = chain.run(x[0], x[1]);
  const at::Tensor loss = y[0].sin().sum() + y[1].sum();
  Tensors wanted = x;
  wanted.insert(wanted.end(), chain.parameters.begin(), chain.parameters.end());
  const Tensors first = grad({loss}, wanted, true);
  const Tensors second = grad({loss}, wanted, true);
  const Tensors third = grad({loss}, wanted);
  EXPECT_LE(distance(second, first), 1e-13);
  EXPECT_LE(distance(third, first), 1e-13);
}

TEST_F(Life, ASecondBackwardWithoutRetainIsPyTorchsError) {
  Tensors x = leaves(inputs);
  const Tensors y = chain.run(x[0], x[1]);
  // A sum saves nothing: the error must come from the step.
  const at::Tensor loss = y[0].sum();
  loss.backward();
  const std::string message = messageOf([&] { loss.backward(); });
  EXPECT_TRUE(
      contains(message, "Trying to backward through the graph a second time"))
      << message;
}

/// The chain, with the states between its two parts.
struct Cut {
  Tensors x, middle, end;
  Cut(const Chain& chain, const Tensors& inputs, bool plain)
      : x(leaves(inputs)) {
    Chain first = chain, second = chain;
    const auto half = static_cast<std::ptrdiff_t>(chain.parameters.size() / 2);
    first.parameters.assign(chain.parameters.begin(),
                            chain.parameters.begin() + half);
    second.parameters.assign(chain.parameters.begin() + half,
                             chain.parameters.end());
    middle = plain ? first.plain(x[0], x[1]) : first.run(x[0], x[1]);
    end = plain ? second.plain(middle[0], middle[1])
                : second.run(middle[0], middle[1]);
  }
};

TEST_F(Life, AMiddleStateInTheLoss) {
  const auto run = [&](bool plain) {
    Cut cut(chain, inputs, plain);
    Tensors wanted = cut.x;
    wanted.insert(wanted.end(), chain.parameters.begin(),
                  chain.parameters.end());
    return grad(
        {(cut.middle[0].sin() * cut.middle[1]).sum() + cut.end[0].exp().sum()},
        wanted);
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, PartialBackwardPulls) {
  const auto run = [&](bool plain) {
    Cut cut(chain, inputs, plain);
    // The second half never runs backward, yet its steps hold the states.
    return grad({cut.middle[0].sin().sum()}, cut.x);
  };
  resetStats();
  const Tensors ours = run(false);
  EXPECT_EQ(stats().pulls, 4);
  EXPECT_LE(distance(ours, run(true)), 1e-13);
}

TEST_F(Life, TwoDisjointBackwardCalls) {
  const auto run = [&](bool plain) {
    Cut cut(chain, inputs, plain);
    // The first part first: it pulls; then the second up to the cut.
    Tensors result = grad({cut.middle[0].sin().sum()}, cut.x, true);
    for (const auto& g : grad({cut.end[1].exp().sum()}, {cut.middle[1]}, true))
      result.push_back(g);
    for (const auto& g : grad({cut.end[0].sum()}, cut.x))
      result.push_back(g);
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, DoubleBackward) {
  const auto run = [&](bool plain) {
    Tensors x = leaves(inputs);
    const Tensors y = plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
    Tensors wanted = x;
    wanted.insert(wanted.end(), chain.parameters.begin(),
                  chain.parameters.end());
    const Tensors g =
        grad({y[0].sin().sum() + (y[0] * y[1]).sum()}, wanted, true, true);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const at::Tensor& t : g)
      sum = sum + (t * t).sum();
    Tensors result = grad({sum}, wanted);
    result.insert(result.end(), g.begin(), g.end());
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-11);
}

TEST_F(Life, OnlyInputGradientsComputeNoParameterGradients) {
  const auto run = [&](bool plain) {
    Tensors x = leaves(inputs);
    const Tensors y = plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
    return grad({y[0].sin().sum()}, {x[0]});
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, FrozenWeights) {
  for (at::Tensor& p : chain.parameters)
    p.requires_grad_(false);
  const auto run = [&](bool plain) {
    Tensors x = leaves(inputs);
    const Tensors y = plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
    return grad({y[0].sin().sum()}, x);
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, InputsThatNeedNoGradient) {
  const auto run = [&](bool plain) {
    const Tensors y = plain ? chain.plain(inputs[0], inputs[1])
                            : chain.run(inputs[0], inputs[1]);
    return grad({y[0].sin().sum()}, chain.parameters);
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, RequiresGradFollowsPlainAutograd) {
  const Tensors out = coupling(chain.step, {inputs[0]}, {inputs[1]},
                               {chain.parameters[0], chain.parameters[1]});
  EXPECT_TRUE(out[0].requires_grad());
  EXPECT_FALSE(out[1].requires_grad()); // passed through, nothing behind it
}

TEST_F(Life, WithoutGradModeItJustComputes) {
  Tensors x = leaves(inputs);
  resetStats();
  {
    at::NoGradGuard noGrad;
    const Tensors y = chain.run(x[0], x[1]);
    EXPECT_FALSE(y[0].requires_grad());
    EXPECT_TRUE(at::equal(y[0], chain.plain(x[0], x[1])[0]));
    EXPECT_EQ(stats().liveNodes, 0);
  }
  {
    c10::InferenceMode inference;
    const Tensors y = chain.run(x[0] + 0, x[1] + 0);
    EXPECT_TRUE(y[0].is_inference());
    EXPECT_EQ(stats().liveNodes, 0);
  }
}

TEST_F(Life, ModeIsWhatTheForwardFound) {
  for (const char* before : {"invert", "recompute", "store"})
    for (const char* after : {"invert", "recompute", "store"}) {
      const auto run = [&](bool plain) {
        Tensors x = leaves(inputs);
        chain.step.setattr("mode", std::string(before));
        const Tensors y =
            plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
        chain.step.setattr("mode", std::string(after));
        Tensors wanted = x;
        wanted.insert(wanted.end(), chain.parameters.begin(),
                      chain.parameters.end());
        return grad({y[0].sin().sum()}, wanted);
      };
      EXPECT_LE(distance(run(false), run(true)), 1e-13) << before << after;
    }
}

TEST_F(Life, StoredStepsAreBitEqual) {
  chain.step.setattr("mode", std::string("store"));
  const auto loss = [](const Tensors&, const Tensors& y) {
    return y[0].sin().sum();
  };
  EXPECT_EQ(distance(gradients(false, loss), gradients(true, loss)), 0);
}

TEST_F(Life, RecomputedStepsAreBitEqual) {
  chain.step.setattr("mode", std::string("recompute"));
  const auto loss = [](const Tensors&, const Tensors& y) {
    return y[0].sin().sum();
  };
  EXPECT_EQ(distance(gradients(false, loss), gradients(true, loss)), 0);
}

TEST_F(Life, AnUnknownModeIsAnError) {
  chain.step.setattr("mode", std::string("invret"));
  const std::string message =
      messageOf([&] { chain.run(inputs[0], inputs[1]); });
  EXPECT_TRUE(contains(message, "mode is 'invret'")) << message;
}

TEST_F(Life, AnExceptionInAReplayReachesTheCallerAndLeaksNothing) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = R"(
def conditioner(self, z: Tensor):
    return torch.tanh(invtest.fail_after(z, 1))
)";
  auto step = makeStep(spec);
  TestOps::reset();
  Tensors x = leaves(inputs);
  {
    const Tensors y = coupling(step, {x[0]}, {x[1]}, {});
    EXPECT_TRUE(contains(messageOf([&] { y[0].sum().backward(); }), "planted"));
  }
  // The next iteration works.
  chain.run(x[0], x[1])[0].sum().backward();
}

TEST_F(Life, TheSameWeightInTwoSteps) {
  for (size_t i = 2; i < chain.parameters.size(); i++)
    chain.parameters[i] = chain.parameters[i % 2];
  const auto run = [&](bool plain) {
    Tensors x = leaves(inputs);
    const Tensors y = plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
    return grad({(y[0].sin() * chain.parameters[1]).sum()},
                {x[0], x[1], chain.parameters[0], chain.parameters[1]});
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, TheSameStateAsXAndZ) {
  const auto run = [&](bool plain) {
    at::Tensor x = inputs[0].clone().requires_grad_();
    const at::Tensor &w = chain.parameters[0], &b = chain.parameters[1];
    const at::Tensor y =
        plain ? x + net(x, w, b) : coupling(chain.step, {x}, {x}, {w, b})[0];
    return grad({y.sin().sum()}, {x, w, b});
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, OneStateInTwoSteps) {
  // Both consume x1; the second finds it taken.
  const auto run = [&](bool plain) {
    Tensors x = leaves(inputs);
    const at::Tensor s = x[0].exp(), t = x[1].exp();
    const auto& p = chain.parameters;
    const auto step = [&](const at::Tensor& a, const at::Tensor& b, size_t i) {
      return plain ? a + net(b, p[i], p[i + 1])
                   : coupling(chain.step, {a}, {b}, {p[i], p[i + 1]})[0];
    };
    const at::Tensor u = step(s, t, 0), v = step(s, t, 2), q = step(t, u, 4);
    return grad({(u.sin() * v + q).sum()},
                {x[0], x[1], p[0], p[1], p[2], p[3], p[4], p[5]});
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-13);
}

TEST_F(Life, ThreadsShareAStep) {
  std::vector<std::thread> threads;
  std::vector<double> worst(4, 1);
  for (size_t k = 0; k < worst.size(); k++)
    threads.emplace_back([&, k] {
      Chain mine = chain;
      mine.parameters = leaves(chain.parameters);
      const auto run = [&](bool plain) {
        Tensors x = leaves(inputs);
        const Tensors y = plain ? mine.plain(x[0], x[1]) : mine.run(x[0], x[1]);
        Tensors wanted = x;
        wanted.insert(wanted.end(), mine.parameters.begin(),
                      mine.parameters.end());
        return grad({y[0].sin().sum()}, wanted);
      };
      const Tensors reference = run(true);
      worst[k] = 0;
      for (int i = 0; i < 20; i++)
        worst[k] = std::max(worst[k], distance(run(false), reference));
    });
  for (std::thread& t : threads)
    t.join();
  for (double w : worst)
    EXPECT_LE(w, 1e-13);
}

TEST_F(Life, TwoThreadsRunBackwardOverOneChain) {
  Tensors x = leaves(inputs);
  const Tensors y = chain.run(x[0], x[1]);
  const at::Tensor loss = y[0].sin().sum();
  const Tensors reference = grad({loss}, x, true);
  std::vector<std::thread> threads;
  std::vector<double> worst(4, 1);
  for (size_t k = 0; k < worst.size(); k++)
    threads.emplace_back([&, k] {
      worst[k] = 0;
      for (int i = 0; i < 10; i++)
        worst[k] =
            std::max(worst[k], distance(grad({loss}, x, true), reference));
    });
  for (std::thread& t : threads)
    t.join();
  for (double w : worst)
    EXPECT_LE(w, 1e-13);
}

TEST_F(Life, ForwardAndBackwardOnDifferentThreads) {
  Tensors x = leaves(inputs);
  const Tensors y = chain.run(x[0], x[1]);
  std::thread([&] { y[0].sin().sum().backward(); }).join();
  const Tensors ours = gradsOf(x);
  Tensors r = leaves(inputs);
  chain.plain(r[0], r[1])[0].sin().sum().backward();
  EXPECT_LE(distance(ours, gradsOf(r)), 1e-13);
}

} // namespace
} // namespace inv::test
