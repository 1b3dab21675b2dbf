// Hazards of graphs: what users do to tensors, gradients, hooks and backward.
#include "HazardTest.h"

#include "inv/Abi.h"

#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/function_hook.h>

#include <thread>

namespace inv::test {
namespace {

class HazardGraph : public Hazard {
protected:
  Net net = makeNet(4, tanhNet(4));

  void TearDown() override {
    net.ofStep.clear();
    Hazard::TearDown();
  }

  /// Like `run`, with code of the test's own between inputs and gradients.
  using Body = std::function<at::Tensor(
      const Tensors& x, const std::function<Tensors(at::Tensor, at::Tensor)>&)>;
  void sameBody(const Body& body, double bound = 1e-12) {
    const auto run = [&](bool plain) {
      const Tensors x = leaves(inputs);
      Tensors wanted = x;
      for (const at::Tensor& p : net.parameters())
        wanted.push_back(p);
      return gradOf({body(x,
                          [&](const at::Tensor& a, const at::Tensor& b) {
                            return plain ? net.plain(a, b) : net(a, b);
                          })},
                    wanted);
    };
    EXPECT_LE(distance(run(false), run(true)), bound);
  }
};

TEST_P(HazardGraph, H06_TheInputIsReadBefore) {
  sameBody([](const Tensors& x, const auto& f) {
    const at::Tensor a = x[0] * 1, b = x[1] * 1;
    const at::Tensor before = a.exp().sum() + b.tanh().sum();
    const Tensors y = f(a, b);
    return before + (y[0] * y[1]).sum();
  });
}

TEST_P(HazardGraph, H07_TheInputIsReadAfter) {
  sameBody([](const Tensors& x, const auto& f) {
    const at::Tensor a = x[0] * 1, b = x[1] * 1;
    const Tensors y = f(a, b);
    return ((a + y[0]).sin() * (y[1] + b).exp()).sum();
  });
  sameBody([](const Tensors& x, const auto& f) {
    at::Tensor a = x[0] * 1;
    const Tensors y = f(a, x[1] * 1);
    a += y[0]; // nothing saved it
    return (a.sin() * y[1]).sum();
  });
}

TEST_P(HazardGraph, H08_OnlyTheOtherConsumerIsInTheLoss) {
  sameBody([](const Tensors& x, const auto& f) {
    const at::Tensor a = x[0].exp(), b = x[1].tanh();
    const Tensors y = f(a, b);
    return a.sin().sum() + b.cos().sum();
  });
}

TEST_P(HazardGraph, H09_AnOperatorThatSavesItsResultMakesTheInput) {
  for (const auto& make : std::vector<std::function<at::Tensor(at::Tensor)>>{
           [](at::Tensor t) { return t.relu(); },
           [](at::Tensor t) { return t.tanh(); },
           [](at::Tensor t) { return t.exp(); },
           [](at::Tensor t) { return t.sigmoid(); },
           [](at::Tensor t) { return t.softmax(-1); }})
    sameBody([&](const Tensors& x, const auto& f) {
      const Tensors y = f(make(x[0]), make(x[1]));
      return (y[0] * y[1]).sum();
    });
}

TEST_P(HazardGraph, H10_AnySubsetOfInputs) {
  const auto run = [&](bool plain, size_t subset, bool backward) {
    const Tensors x = leaves(inputs);
    Tensors all = x, wanted;
    for (const at::Tensor& p : net.parameters())
      all.push_back(p);
    for (size_t i = 0; i < all.size(); i++)
      if ((subset >> i & 1) != 0)
        wanted.push_back(all[i]);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const at::Tensor loss = y[0].sin().sum() + y[1].exp().sum();
    if (!backward)
      return gradOf({loss}, wanted);
    for (at::Tensor& t : all)
      t.mutable_grad() = at::Tensor();
    loss.backward({}, false, false, wanted);
    Tensors result = gradsOf(all); // undefined where nobody asked
    for (at::Tensor& t : all)
      t.mutable_grad() = at::Tensor();
    return result;
  };
  for (size_t subset : {1u, 2u, 3u, 4u, 8u, 16u, 64u, 128u, 512u, 0x155u,
                        0x2aau, 0x3fcu, 0x3ffu})
    for (bool backward : {false, true})
      EXPECT_LE(
          distance(run(false, subset, backward), run(true, subset, backward)),
          1e-12)
          << subset;
}

TEST_P(HazardGraph, H10_EverySubsetOfInputs) {
  // Of two steps all 63, asked for in both ways; and with only those needing a
  // gradient, which also says which outputs need one.
  net = makeNet(2, tanhNet(4));
  const Tensors parameters = net.parameters();
  const auto run = [&](bool plain, size_t subset, int how) {
    Tensors all = leaves(inputs);
    const Tensors x = all;
    all.insert(all.end(), parameters.begin(), parameters.end());
    Tensors wanted;
    for (size_t i = 0; i < all.size(); i++) {
      const bool asked = (subset >> i & 1) != 0;
      if (asked)
        wanted.push_back(all[i]);
      all[i].set_requires_grad(how != 2 || asked);
    }
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    Tensors result = {at::tensor(y[0].requires_grad() ? 2 : 1),
                      at::tensor(y[1].requires_grad() ? 2 : 1)};
    const at::Tensor loss = bothSides(x, y);
    if (how == 0) {
      for (const at::Tensor& g : gradOf({loss}, wanted))
        result.push_back(g);
    } else {
      if (how == 1)
        loss.backward({}, false, false, wanted);
      else
        loss.backward();
      for (const at::Tensor& g : gradsOf(all))
        result.push_back(g);
    }
    for (at::Tensor& t : all) {
      t.mutable_grad() = at::Tensor();
      t.set_requires_grad(true);
    }
    return result;
  };
  for (size_t subset = 1; subset < 64; subset++)
    for (int how : {0, 1, 2})
      EXPECT_LE(distance(run(false, subset, how), run(true, subset, how)),
                1e-12)
          << subset << ", " << how;
}

TEST_P(HazardGraph, H11_DoubleBackwardInEveryMode) {
  for (const char* mode : {abi::kInvert, abi::kRecompute, abi::kStore}) {
    net.setMode(mode);
    sameBody(
        [](const Tensors& x, const auto& f) {
          const Tensors y = f(x[0] * 1, x[1] * 1);
          const Tensors g = gradOf({(y[0] * y[1]).sum()}, x, true, true);
          return g[0].pow(3).sum() + (g[1] * y[0]).sum();
        },
        1e-11);
  }
}

TEST_P(HazardGraph, H11_DoubleBackward) {
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const Tensors g = gradOf({bothSides(x, y)}, wanted, true, true);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const at::Tensor& t : g)
      sum = sum + t.pow(3).sum();
    return gradOf({sum}, wanted);
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-11);
}

TEST_P(HazardGraph, H12_BackwardSeveralTimes) {
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    Tensors all = x;
    for (const at::Tensor& p : net.parameters())
      all.push_back(p);
    for (at::Tensor& t : all)
      t.mutable_grad() = at::Tensor();
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    y[0].sin().sum().backward({}, true); // two losses,
    y[1].exp().sum().backward({}, true);
    const at::Tensor loss = (y[0] * y[1]).sum();
    loss.backward({}, true); // one of them twice, all accumulated
    loss.backward();
    Tensors result = gradsOf(all);
    for (at::Tensor& t : all)
      t.mutable_grad() = at::Tensor();
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardGraph, H12_ASecondBackwardWithoutRetainIsPyTorchsError) {
  const Tensors x = leaves(inputs);
  const at::Tensor loss = net(x[0], x[1])[0].sum();
  gradOf({loss}, x);
  EXPECT_TRUE(contains(messageOf([&] { gradOf({loss}, x); }),
                       "backward through the graph a second time"));
}

TEST_P(HazardGraph, H12_ABackwardThatFailsBetweenTwoOthers) {
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    int calls = 0;
    x[0].register_hook([&](const at::Tensor& g) {
      TORCH_CHECK(++calls != 2, "planted");
      return g;
    });
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const at::Tensor loss = bothSides(x, y);
    Tensors result = gradOf({loss}, x, true);
    EXPECT_TRUE(
        contains(messageOf([&] { gradOf({loss}, x, true); }), "planted"));
    for (const at::Tensor& g : gradOf({loss}, x))
      result.push_back(g);
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardGraph, H13_UnusedOutputsAndInputsWithoutGrad) {
  for (int needs = 0; needs < 4; needs++)
    for (int used = 1; used < 4; used++) {
      const auto run = [&](bool plain) {
        Tensors x = leaves(inputs);
        for (size_t i = 0; i < 2; i++)
          x[i].set_requires_grad((needs >> i & 1) != 0);
        const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
        at::Tensor loss = at::zeros({}, at::kDouble);
        for (size_t i = 0; i < 2; i++)
          if ((used >> i & 1) != 0)
            loss = loss + y[i].sin().sum();
        Tensors wanted = net.parameters();
        for (const at::Tensor& t : x)
          if (t.requires_grad())
            wanted.push_back(t);
        return gradOf({loss}, wanted);
      };
      EXPECT_LE(distance(run(false), run(true)), 1e-12) << needs << used;
    }
}

TEST_P(HazardGraph, H13_OutputsThatNobodyKeeps) {
  for (int i = 0; i < 3; i++) {
    const Tensors x = leaves(inputs);
    net(x[0], x[1]);
  }
  EXPECT_EQ(stats().liveNodes, 0);
  EXPECT_EQ(stats().liveSlots, 0);
}

TEST_P(HazardGraph, H17_TheSameModuleTwiceAndAWeightOutside) {
  sameBody([&](const Tensors& x, const auto& f) {
    const Tensors y = f(x[0] * 1, x[1] * 1);
    const Tensors again = f(y[0], y[1]);
    return (at::linear(again[0], net.ofStep[1][0]) * again[1]).sum();
  });
}

TEST_P(HazardGraph, H18_HooksFireOnce) {
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    std::vector<int> calls(net.parameters().size() + 3);
    size_t k = 0;
    std::vector<std::pair<at::Tensor, unsigned>> hooks;
    const auto count = [&](const at::Tensor& t) {
      int* n = &calls[k++];
      hooks.emplace_back(t, t.register_hook([n](const at::Tensor& g) {
        ++*n;
        return g * 2;
      }));
    };
    for (const at::Tensor& p : net.parameters())
      count(p);
    count(x[0]);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    count(y[0]);
    count(y[1]);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    for (at::Tensor& t : wanted)
      t.mutable_grad() = at::Tensor();
    bothSides(x, y).backward();
    Tensors result = gradsOf(wanted);
    for (at::Tensor& t : wanted)
      t.mutable_grad() = at::Tensor();
    for (auto& [t, handle] : hooks)
      t.remove_hook(handle);
    for (int n : calls)
      EXPECT_EQ(n, 1);
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardGraph, H18_HooksThatChangeGradientsInPlace) {
  sameBody([](const Tensors& x, const auto& f) {
    const at::Tensor a = x[0] * 1, b = x[1] * 1;
    const Tensors y = f(a, b);
    for (const at::Tensor& t : {a, b, y[0], y[1]})
      t.register_hook([](at::Tensor g) { return g.mul_(3); });
    return (y[0].sin() * y[1]).sum() + a.sum();
  });
}

TEST_P(HazardGraph, H18_AHookThatThrows) {
  const Tensors x = leaves(inputs);
  {
    const Tensors y = net(x[0], x[1]);
    y[0].register_hook([](const at::Tensor&) -> at::Tensor {
      TORCH_CHECK(false, "from a hook");
    });
    EXPECT_TRUE(contains(messageOf([&] { gradOf({bothSides(x, y)}, x); }),
                         "from a hook"));
  }
  same(net, inputs, bothSides);
}

TEST_P(HazardGraph, H19_Threads) {
  const Tensors reference = run(net, true, inputs, bothSides);
  std::vector<std::thread> threads;
  std::vector<double> worst(10, 1);
  for (size_t k = 0; k < worst.size(); k++)
    threads.emplace_back([&, k] {
      worst[k] = 0;
      for (int i = 0; i < 5; i++) {
        const Tensors x = leaves(inputs);
        const Tensors y = net(x[0], x[1]);
        Tensors result = {y[0].detach(), y[1].detach()};
        Tensors wanted = x;
        for (const at::Tensor& p : net.parameters())
          wanted.push_back(p);
        // Backward on yet another thread.
        std::thread([&] {
          for (const at::Tensor& g : gradOf({bothSides(x, y)}, wanted))
            result.push_back(g);
        }).join();
        worst[k] = std::max(worst[k], distance(result, reference));
      }
    });
  for (std::thread& t : threads)
    t.join();
  for (double w : worst)
    EXPECT_LE(w, 1e-12);
}

TEST_P(HazardGraph, H19_ForkAndWait) {
  if (GetParam() == Door::Operator)
    GTEST_SKIP() << "a model is needed";
  // Two parts that share a part of the graph, and the model's weights.
  torch::jit::Module outer = modelOf(R"(
def part(self, a: Tensor, b: Tensor):
    return self.inner.forward(a, b)
def forward(self, a: Tensor, b: Tensor):
    a, b = self.inner.forward(a, b)
    one = fork(self.part, a, b)
    two = fork(self.part, b, a)
    a, b = torch.wait(one)
    c, d = torch.wait(two)
    return a + c, b * d
)",
                                     {}, {{"inner", net.model()}});
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    Tensors y;
    if (plain) {
      const Tensors m = net.plain(x[0], x[1]);
      const Tensors one = net.plain(m[0], m[1]), two = net.plain(m[1], m[0]);
      y = {one[0] + two[0], one[1] * two[1]};
    } else {
      const auto out = outer.forward({x[0], x[1]}).toTuple();
      y = {out->elements()[0].toTensor(), out->elements()[1].toTensor()};
    }
    return gradOf({y[0].sin().sum() + y[1].sum()}, wanted);
  };
  const Tensors reference = run(true);
  for (int i = 0; i < 5; i++)
    EXPECT_LE(distance(run(false), reference), 1e-12);
}

TEST_P(HazardGraph, H23_DisjointBackwardCalls) {
  Net second = makeNet(4, tanhNet(4));
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors m = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const Tensors y = plain ? second.plain(m[0], m[1]) : second(m[0], m[1]);
    // The upper half first, then the lower with what arrived at m[1].
    const Tensors upper = gradOf({y[0].sin().sum()}, {m[1]}, true);
    Tensors result = torch::autograd::grad({m[1]}, x, upper, true, false, true);
    for (const at::Tensor& g : gradOf({m[0].exp().sum()}, x, true))
      result.push_back(g);
    for (const at::Tensor& g : gradOf({y[1].sum()}, x))
      result.push_back(g);
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardGraph, H28_BackwardInAHook) {
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs), inner = leaves(inputs);
    Tensors innerGrads;
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    y[0].register_hook([&](const at::Tensor& g) {
      at::AutoGradMode grad(true);
      const Tensors z =
          plain ? net.plain(inner[0], inner[1]) : net(inner[0], inner[1]);
      innerGrads = gradOf({z[0].sin().sum()}, inner);
      return g * innerGrads[0].sum().detach();
    });
    Tensors result = gradOf({bothSides(x, y)}, x);
    result.insert(result.end(), innerGrads.begin(), innerGrads.end());
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardGraph, H28_StepsInsideOfSteps) {
  // The conditioner holds a chain of its own, of which it reads both streams.
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
              "    return torch.tanh(torch.linear(z, w))\n"
              "def function(self, x: Tensor, f: Tensor):\n"
              "    return x + f\n"
              "def inverse(self, y: Tensor, f: Tensor):\n"
              "    return y - f\n";
  Conditioner c;
  c.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    h = torch.tanh(torch.linear(z, w, b))
    y = inv.coupling(self.inner, [h], [z], [w], None)
    t = inv.coupling(self.inner, [y[1]], [y[0]], [w], None)
    return t[0] * torch.sin(t[1])
)";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    const at::Tensor h = at::tanh(at::linear(z, p[0], p[1]));
    const at::Tensor y = h + at::tanh(at::linear(z, p[0]));
    return (z + at::tanh(at::linear(y, p[0]))) * at::sin(y);
  };
  c.captures = tanhNet(4).captures;
  c.inner = {{"inner", makeStep(spec)}};
  c.rewritable = false; // it has steps already
  net = makeNet(4, c);
  same(net, inputs, bothSides);
  sameBody( // and undone for a second derivative
      [](const Tensors& x, const auto& f) {
        const Tensors y = f(x[0] * 1, x[1] * 1);
        const Tensors g = gradOf({(y[0] * y[1]).sum()}, x, true, true);
        return g[0].pow(3).sum() + (g[1] * y[0]).sum();
      },
      1e-11);
}

TEST_P(HazardGraph, H29_AModelThatAsksForGradientsItself) {
  // Forces from an energy, and a loss on both.
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const at::Tensor energy = (y[0] * y[1]).sum();
    const Tensors forces = gradOf({energy}, x, true, true);
    return gradOf({energy + forces[0].pow(2).sum() + forces[1].sin().sum()},
                  net.parameters());
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-11);
}

TEST_P(HazardGraph, H30_OnlyInputGradients) {
  for (const at::Tensor& p : net.parameters())
    at::Tensor(p).set_requires_grad(false);
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    bothSides(x, y).backward();
    return gradsOf(x);
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
  for (const at::Tensor& p : net.captures())
    EXPECT_FALSE(p.grad().defined());
}

class Anomaly {
public:
  Anomaly() { torch::autograd::AnomalyMode::set_enabled(true); }
  ~Anomaly() { torch::autograd::AnomalyMode::set_enabled(false); }
  Anomaly(const Anomaly&) = delete;
  Anomaly& operator=(const Anomaly&) = delete;
};

TEST_P(HazardGraph, AnomalyModeIsRightAndFindsNaN) {
  const Anomaly anomaly;
  same(net, inputs, bothSides);
  // The chain's own backward turns a gradient of infinity into NaN.
  const auto run = [&](bool plain) {
    return messageOf([&] {
      const Tensors x = leaves(inputs);
      const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
      const at::Tensor one = at::ones_like(y[1]);
      torch::autograd::grad({y[1]}, x, {one * INFINITY});
    });
  };
  EXPECT_TRUE(contains(run(true), "returned nan values"));
  EXPECT_TRUE(contains(run(false), "returned nan values"));
}

TEST_P(HazardGraph, H14_BackwardInInferenceMode) {
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const at::Tensor loss = bothSides(x, y);
    const c10::InferenceMode inference;
    Tensors result = gradOf({loss}, x, true);
    for (const at::Tensor& g : gradOf({loss}, net.parameters()))
      result.push_back(g);
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

TEST_P(HazardGraph, H32_ModesFlip) {
  for (const char* before : {abi::kInvert, abi::kRecompute, abi::kStore})
    for (const char* after : {abi::kInvert, abi::kRecompute, abi::kStore})
      sameBody([&](const Tensors& x, const auto& f) {
        net.setMode(before);
        const Tensors y = f(x[0] * 1, x[1] * 1);
        net.setMode(after); // and the same steps again, in the other mode
        const Tensors z = f(y[0], y[1]);
        net.setMode(before);
        return (z[0] * z[1]).sum();
      });
}

TEST_P(HazardGraph, H33_InsideACheckpoint) {
  // The whole chain runs again, its backward inside of the other one; twice, so
  // that the second gets its gradients from the first.
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors parameters = net.parameters();
    const TensorsToTensors body = [&](const Tensors& in) {
      return plain ? net.plain(in[0], in[1]) : net(in[0], in[1]);
    };
    const Tensors y = checkpointed(body, checkpointed(body, x));
    bothSides(x, y).backward();
    Tensors result = {y[0].detach(), y[1].detach()};
    for (const Tensors& list : {x, parameters})
      for (const at::Tensor& t : list) {
        result.push_back(t.grad());
        at::Tensor(t).mutable_grad() = at::Tensor();
      }
    return result;
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardGraph, everyDoor(), doorName);

} // namespace
} // namespace inv::test
