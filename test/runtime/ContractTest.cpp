// What a step may be handed and may do; what its outputs need; what its
// replays see.
#include "Steps.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <ATen/ExpandUtils.h>
#include <c10/core/DefaultDtype.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <thread>

namespace inv::test {
namespace {

at::Tensor random(c10::IntArrayRef sizes) {
  return at::randn(sizes, at::kDouble);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Contract : public testing::Test {
protected:
  void SetUp() override {
    at::manual_seed(21);
    resetStats();
    TestOps::reset();
  }
  void TearDown() override { expectNothingAlive(); }
  torch::jit::Module step = sumStep();
  Tensors inputs = {random({5, 4}), random({5, 4}), random({4, 4}),
                    random({4})};
};

// ------------------------------------------------------------------ arguments

TEST_F(Contract, ATensorAmongTheExtrasIsRefused) {
  const auto call = [&](c10::IValue extra) {
    return messageOf([&] {
      coupling(step, {inputs[0]}, {inputs[1]}, {inputs[2], inputs[3]},
               c10::ivalue::Tuple::create({1, std::move(extra)}));
    });
  };
  const std::string why = "extra 1 of a step is a ";
  EXPECT_TRUE(contains(call(inputs[3]), why + "Tensor"));
  EXPECT_TRUE(contains(call(Tensors{inputs[3]}), why + "GenericList"));
  c10::impl::GenericList nested(c10::ListType::ofTensors());
  nested.push_back(Tensors{inputs[3]});
  EXPECT_TRUE(contains(call(nested), why + "GenericList"));
  EXPECT_TRUE(contains(call(step._ivalue()), why + "Object"));
}

TEST_F(Contract, NumbersFlagsAndListsAreExtras) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = R"(
def conditioner(self, z: Tensor, i: int, f: float, b: bool, l: List[int],
                n: Optional[int]):
    return z * i if b and n is None else z * f * l[0]
)";
  const auto y = coupling(
      makeStep(spec), {inputs[0]}, {inputs[1]}, {},
      c10::ivalue::Tuple::create({3, 0.5, true, c10::List<int64_t>({2}), {}}));
  EXPECT_TRUE(at::equal(y[0], inputs[0] + inputs[1] * 3));
}

TEST_F(Contract, AnIndexBeyondTheCallIsAnErrorThatNamesTheStep) {
  StepSpec spec;
  spec.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
              "    return z * w\n"
              "def function(self, x: Tensor, f: Tensor):\n"
              "    return x + f\n";
  spec.functionCaptures = {3};
  EXPECT_TRUE(contains(messageOf([&] {
                         coupling(makeStep(spec), {inputs[0]}, {inputs[1]},
                                  {inputs[3]});
                       }),
                       "blocks.3: net.py:41"));
  spec.functionCaptures = {};
  spec.functionExtras = {0};
  EXPECT_TRUE(contains(messageOf([&] {
                         coupling(makeStep(spec), {inputs[0]}, {inputs[1]},
                                  {inputs[3]});
                       }),
                       "function takes extra 0 of 0"));
}

// ------------------------------------------------------ outputs that need grad

TEST_F(Contract, OutputsNeedGradWherePlainAutogradSaysSo) {
  StepSpec spec;
  spec.numSides = 3;
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    f = torch.linear(z, w)
    return f, b.exp(), f.detach(), torch.argmax(f)
def function(self, x: Tensor, f: Tensor):
    return x + f
def inverse(self, y: Tensor, f: Tensor):
    return y - f
)";
  const auto general = makeStep(spec);
  for (int subset = 0; subset < 16; subset++) {
    Tensors in = leaves(inputs);
    for (size_t i = 0; i < in.size(); i++)
      in[i].set_requires_grad((subset >> i & 1) != 0);
    const at::Tensor f = at::linear(in[1], in[2]);
    const Tensors plain = {in[0] + f, in[3].exp(), f.detach(), at::argmax(f),
                           in[1]};
    const Tensors ours = coupling(general, {in[0]}, {in[1]}, {in[2], in[3]});
    const Tensors sum = coupling(step, {in[0]}, {in[1]}, {in[2], in[3]});
    ASSERT_EQ(ours.size(), plain.size());
    for (size_t i = 0; i < plain.size(); i++) {
      EXPECT_EQ(ours[i].requires_grad(), plain[i].requires_grad())
          << "subset " << subset << ", output " << i;
      EXPECT_TRUE(at::equal(ours[i], plain[i]));
    }
    EXPECT_EQ(sum[0].requires_grad(), subset != 0);
    EXPECT_EQ(sum[1].requires_grad(), in[1].requires_grad());
  }
}

TEST_F(Contract, NoNodeWhereNoOutputNeedsGrad) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.round(z.detach())\n";
  const at::Tensor z = inputs[1].clone().requires_grad_();
  const Tensors y = coupling(makeStep(spec), {inputs[0]}, {z}, {});
  EXPECT_FALSE(y[0].requires_grad());
  EXPECT_TRUE(y[1].requires_grad());
  EXPECT_EQ(stats().liveNodes, 0);
}

// ------------------------------------------------------------ broadcast states

StepSpec biasSpec() {
  StepSpec spec;
  spec.numAux = 0;
  spec.functionCaptures = {0};
  spec.code = "def function(self, x: Tensor, b: Tensor):\n"
              "    return x * 2 + b\n"
              "def inverse(self, y: Tensor, b: Tensor):\n"
              "    return (y - b) / 2\n";
  return spec;
}

TEST_F(Contract, ABijectionThatRepeatsItsStateKeepsIt) {
  const auto bias = makeStep(biasSpec());
  const auto run = [&](at::Tensor x, at::Tensor b, int64_t kept) {
    resetStats();
    compare(
        [&](const Tensors& in) { return bijection(bias, {in[0]}, {in[1]}); },
        [&](const Tensors& in) { return Tensors{in[0] * 2 + in[1]}; },
        {std::move(x), std::move(b)}, 1e-12);
    EXPECT_EQ(stats().kept, kept);
  };
  run(random({5, 4}), random({4}), 0);
  run(random({1, 4}), random({5, 4}), 2);
  run(random({4}), random({1, 4}), 0); // one more dimension repeats nothing
  run(random({1, 4}), at::zeros({0, 4}, at::kDouble), 2);
}

TEST_F(Contract, ACouplingMayReshapeItsState) {
  StepSpec spec;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(z)\n"
              "def function(self, x: Tensor, f: Tensor):\n"
              "    return (x + f).reshape(4, 5)\n"
              "def inverse(self, y: Tensor, f: Tensor):\n"
              "    return y.reshape(5, 4) - f\n";
  const auto general = makeStep(spec);
  compare(
      [&](const Tensors& in) {
        return coupling(general, {in[0]}, {in[1]}, {});
      },
      [&](const Tensors& in) {
        return Tensors{(in[0] + at::tanh(in[1])).reshape({4, 5}), in[1]};
      },
      {inputs[0], inputs[1]}, 1e-12);
  EXPECT_EQ(stats().kept, 0);
}

TEST_F(Contract, StatesOfTwoDtypesAreKept) {
  StepSpec spec;
  spec.numStates = 2;
  spec.numAux = 0;
  spec.code = "def function(self, a: Tensor, b: Tensor):\n"
              "    return b.float() * 2, a * 2\n"
              "def inverse(self, p: Tensor, q: Tensor):\n"
              "    return q / 2, p.double() / 2\n";
  const auto swap = makeStep(spec);
  const auto run = [&](bool plain) {
    const at::Tensor a = inputs[0].to(at::kFloat).requires_grad_();
    const at::Tensor b = inputs[1].clone().requires_grad_();
    const at::Tensor x = a * 1, y = b * 1;
    const Tensors out = plain ? Tensors{y.to(at::kFloat) * 2, x * 2}
                              : bijection(swap, {x, y}, {});
    return torch::autograd::grad({out[0].sin().sum() + out[1].sin().sum()},
                                 {a, b});
  };
  EXPECT_EQ(distance(run(false), run(true)), 0);
  EXPECT_EQ(stats().kept, 1);
}

// ------------------------------------------------------------ what replays see

StepSpec notingSpec() {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(invtest.note(z))\n";
  return spec;
}

TEST_F(Contract, ARebuiltStateIsLaidOutAsTheOriginal) {
  const auto noting = makeStep(notingSpec());
  const std::vector<std::function<Tensors(const at::Tensor&)>> cuts = {
      [](const at::Tensor& t) { return t.chunk(2, 1); },
      [](const at::Tensor& t) {
        return t.contiguous(at::MemoryFormat::ChannelsLast).chunk(2, 1);
      },
      [](const at::Tensor& t) { return t.transpose(1, 3).chunk(2, 3); },
      [](const at::Tensor& t) {
        return Tensors{t.slice(0, 0, 4, 2), t.slice(0, 1, 4, 2)};
      }};
  for (const auto& cut : cuts) {
    TestOps::reset();
    const at::Tensor x = random({4, 6, 2, 3}).requires_grad_();
    const Tensors parts = cut(x * 1);
    Tensors out = coupling(noting, {parts[0]}, {parts[1]}, {});
    out = coupling(noting, {out[1]}, {out[0]}, {});
    (out[0].sin().sum() + out[1].sum()).backward();
    const auto& seen = TestOps::strides();
    ASSERT_EQ(seen.size(), 4u); // forward 0, 1, backward 1, 0
    EXPECT_EQ(seen[2], seen[1]);
    EXPECT_EQ(seen[0], parts[1].strides());
    // Rebuilt: in the same order, without the holes.
    EXPECT_EQ(seen[3], at::infer_dense_strides(parts[1].sizes(), seen[0]));
  }
}

TEST_F(Contract, AnExpandedStateComesBackDense) {
  const auto run = [&](bool plain) {
    const at::Tensor x = random({1, 4}).requires_grad_();
    const at::Tensor a = x.expand({5, 4}), b = x.sin().expand({5, 4});
    const at::Tensor &w = inputs[2], &bias = inputs[3];
    at::Tensor p, q;
    if (plain) {
      p = a + net(b, w, bias);
      q = b + net(p, w, bias);
    } else {
      Tensors out = coupling(step, {a}, {b}, {w, bias});
      p = out[0];
      q = coupling(step, {out[1]}, {out[0]}, {w, bias})[0];
    }
    return torch::autograd::grad({(p * q).sum()}, {x});
  };
  at::manual_seed(1);
  const Tensors ours = run(false);
  at::manual_seed(1);
  EXPECT_LE(distance(ours, run(true)), 1e-13);
}

TEST_F(Contract, TheForwardOfARecurrentNetworkIsBitEqual) {
  // Without grad mode ATen runs another kernel for it.
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = R"(
def conditioner(self, z: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor):
    h = torch.zeros(1, z.size(0), 8)
    out = torch.lstm(z, [h, h], [a, b, c, d], True, 1, 0., True, False, True)
    return out[0]
)";
  const auto recurrent = makeStep(spec);
  const auto run = [&](bool plain) {
    at::manual_seed(2);
    Tensors in =
        leaves({at::randn({3, 6, 8}), at::randn({3, 6, 8}), at::randn({32, 8}),
                at::randn({32, 8}), at::randn({32}), at::randn({32})});
    const Tensors weights(in.begin() + 2, in.end());
    at::Tensor a = in[0] * 1, b = in[1] * 1;
    for (int i = 0; i < 2; i++) {
      if (plain) {
        const at::Tensor h = at::zeros({1, 3, 8});
        const at::Tensor y =
            a + std::get<0>(at::lstm(b, {h, h}, weights, true, 1, 0., true,
                                     false, true));
        a = b;
        b = y;
      } else {
        const Tensors out = coupling(recurrent, {a}, {b}, weights);
        a = out[1];
        b = out[0];
      }
    }
    b.sin().sum().backward();
    Tensors result = {b.detach()};
    for (const at::Tensor& g : gradsOf(in))
      result.push_back(g);
    return result;
  };
  const Tensors ours = run(false), plain = run(true);
  EXPECT_TRUE(at::equal(ours[0], plain[0]));
  EXPECT_LE(distance(ours, plain), 1e-5);
}

TEST_F(Contract, TheDefaultDtypeIsReplayed) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return z.exp() * (torch.ones(4) / 3).double()\n";
  const auto run = [&](bool plain) {
    const at::Tensor x = random({5, 4}).requires_grad_();
    const at::Tensor y =
        plain ? x + x.exp() * (at::ones({4}) / 3).to(at::kDouble)
              : coupling(makeStep(spec), {x * 1}, {x * 1}, {})[0];
    c10::set_default_dtype(caffe2::TypeMeta::Make<double>());
    Tensors g = torch::autograd::grad({y.sin().sum()}, {x});
    EXPECT_EQ(c10::get_default_dtype(), caffe2::TypeMeta::Make<double>());
    c10::set_default_dtype(caffe2::TypeMeta::Make<float>());
    return g;
  };
  at::manual_seed(1);
  const Tensors ours = run(false);
  at::manual_seed(1);
  EXPECT_LE(distance(ours, run(true)), 1e-13);
}

TEST_F(Contract, AnotherPrecisionOfProductsInBackwardIsAnError) {
  auto& context = at::globalContext();
  const auto backend = at::Float32Backend::MKLDNN;
  const auto op = at::Float32Op::MATMUL;
  const auto before = context.float32Precision(backend, op);
  const auto run = [&](at::Float32Precision forward,
                       at::Float32Precision back) {
    return messageOf([&] {
      const Tensors x = leaves(inputs);
      context.setFloat32Precision(backend, op, forward);
      const at::Tensor y = coupling(step, {x[0]}, {x[1]}, {x[2], x[3]})[0];
      context.setFloat32Precision(backend, op, back);
      y.sum().backward();
    });
  };
  const auto bf16 = at::Float32Precision::BF16,
             full = at::Float32Precision::IEEE;
  EXPECT_EQ(run(full, full), "");
  EXPECT_EQ(run(bf16, bf16), "");
  EXPECT_TRUE(contains(run(bf16, full), "precision of float32 products"));
  context.setFloat32Precision(backend, op, before);
}

TEST_F(Contract, DeterministicModeIsReplayed) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(invtest.by_mode(z))\n";
  const auto step = makeStep(spec);
  auto& context = at::globalContext();
  for (const bool on : {true, false}) {
    const Tensors x = leaves({inputs[0], inputs[1]});
    context.setDeterministicAlgorithms(on, false);
    const at::Tensor y = coupling(step, {x[0]}, {x[1]}, {})[0];
    context.setDeterministicAlgorithms(!on, false);
    const at::Tensor g = torch::autograd::grad({y.sum()}, {x[1]})[0];
    EXPECT_EQ(context.deterministicAlgorithms(), !on);
    const double k = on ? 2 : 3;
    EXPECT_LE(distance(g, (k * (1 - at::tanh(x[1] * k).pow(2))).detach()),
              1e-13);
  }
  context.setDeterministicAlgorithms(false, false);
}

// --------------------------------------------------- buffers that steps write

StepSpec normSpec() {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.scratch = {0, 1};
  spec.code = R"(
def conditioner(self, z: Tensor, mean: Tensor, var: Tensor, training: bool):
    return torch.batch_norm(torch.tanh(z), None, None, mean, var, training, 0.1,
                            1e-5, False)
)";
  return spec;
}

TEST_F(Contract, StatisticsThatWereReadAreReplayedWithTheirOldValues) {
  // A call in evaluation, then one in training that moves the statistics
  // without counting a version up, then the backward of the first.
  const auto norm = makeStep(normSpec());
  const at::Tensor mean = random({4}), var = random({4}).exp();
  const at::Tensor oldMean = mean.clone(), oldVar = var.clone();
  const auto call = [&](const Tensors& x, bool training) {
    return coupling(norm, {x[0]}, {x[1]}, {mean, var},
                    c10::ivalue::Tuple::create({training}))[0];
  };
  const Tensors x = leaves({inputs[0], inputs[1]});
  const at::Tensor y = call(x, false);
  call(leaves({inputs[0], inputs[1]}), true);
  ASSERT_FALSE(at::equal(mean, oldMean));
  const Tensors ours = torch::autograd::grad({y.sin().sum()}, x);
  const Tensors r = leaves(x);
  const at::Tensor plain =
      r[0] + at::batch_norm(at::tanh(r[1]), {}, {}, oldMean, oldVar, false, 0.1,
                            1e-5, false);
  EXPECT_LE(distance(ours, torch::autograd::grad({plain.sin().sum()}, r)),
            1e-13);
}

TEST_F(Contract, ABufferThatIsReadAndWrittenIsReplayedFromBefore) {
  // One round of a power iteration, as in spectral normalisation.
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.scratch = {1};
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, u: Tensor):
    u.copy_(torch.mv(w.detach(), u))
    return torch.tanh(torch.linear(z, w) / torch.norm(u))
)";
  const auto power = makeStep(spec);
  const auto run = [&](bool plain, at::Tensor u) {
    const Tensors x = leaves({inputs[0], inputs[1], inputs[2]});
    at::Tensor a = x[0], b = x[1];
    for (int i = 0; i < 3; i++) {
      at::Tensor y;
      if (plain) {
        u = at::mv(x[2].detach(), u);
        y = a + at::tanh(at::linear(b, x[2]) / at::norm(u));
      } else {
        y = coupling(power, {a}, {b}, {x[2], u})[0];
      }
      a = b;
      b = y;
    }
    Tensors result = torch::autograd::grad({b.sin().sum()}, x);
    result.push_back(u);
    return result;
  };
  EXPECT_LE(distance(run(false, inputs[3].clone()), run(true, inputs[3])),
            1e-13);
}

TEST_F(Contract, AScratchCaptureThatNeedsAGradientIsLeftToPlainAutograd) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.scratch = {0};
  spec.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
              "    return torch.tanh(z * w)\n";
  const auto step = makeStep(spec);
  const auto run = [&](bool plain) {
    const Tensors x = leaves({inputs[0], inputs[1], inputs[3]});
    const at::Tensor y = plain ? x[0] + at::tanh(x[1] * x[2])
                               : coupling(step, {x[0]}, {x[1]}, {x[2]})[0];
    return torch::autograd::grad({y.sin().sum()}, x);
  };
  EXPECT_EQ(distance(run(false), run(true)), 0);
  EXPECT_EQ(stats().kept, 1);
}

TEST_F(Contract, NoElementsHaveNoGrowth) {
  StepSpec spec;
  spec.numAux = 1;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.exp(z)\n"
              "def function(self, x: Tensor, s: Tensor):\n"
              "    return x * s\n"
              "def inverse(self, y: Tensor, s: Tensor):\n"
              "    return y / s\n"
              "def growth(self, y: Tensor, s: Tensor):\n"
              "    return torch.amax(torch.reciprocal(s))\n";
  const auto step = makeStep(spec);
  for (int64_t rows : {0, 3}) // amax of nothing is an error
    compare(
        [&](const Tensors& in) { return coupling(step, {in[0]}, {in[1]}, {}); },
        [&](const Tensors& in) {
          return Tensors{in[0] * at::exp(in[1]), in[1]};
        },
        {random({rows, 4}), random({rows, 4})}, 1e-12);
  EXPECT_EQ(stats().kept, 0);
}

TEST_F(Contract, AWrittenCaptureThatIsNotScratchIsRefused) {
  StepSpec spec = normSpec();
  spec.scratch = {0};
  const std::string message = messageOf([&] {
    coupling(makeStep(spec), {inputs[0]}, {inputs[1]},
             {inputs[3].clone(), inputs[3].exp()},
             c10::ivalue::Tuple::create({true}));
  });
  EXPECT_TRUE(contains(message, "writes capture 1")) << message;
  EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
}

TEST_F(Contract, AStateThatTheCodeWritesIsRefused) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.tanh(z.mul_(2))\n";
  EXPECT_TRUE(contains(messageOf([&] {
                         coupling(makeStep(spec), {inputs[0]}, {inputs[1]}, {});
                       }),
                       "writes the state"));
}

// -------------------------------------------------------------- random numbers

StepSpec dropoutSpec() {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.dropout(torch.tanh(z), 0.5, True)\n";
  return spec;
}

TEST_F(Contract, ThreadsDropOutAtTheSameTime) {
  // y - x is 2 tanh(z) or 0, and dy/dz follows the same mask.
  const auto dropout = makeStep(dropoutSpec());
  std::vector<std::thread> threads;
  std::vector<double> worst(8, 1);
  for (size_t k = 0; k < worst.size(); k++)
    threads.emplace_back([&, k] {
      worst[k] = 0;
      for (int i = 0; i < 20; i++) {
        const at::Tensor x = at::zeros({50}, at::kDouble).requires_grad_();
        const at::Tensor z = at::full({50}, 0.5, at::kDouble).requires_grad_();
        const at::Tensor y = coupling(dropout, {x}, {z}, {})[0];
        y.sum().backward();
        const at::Tensor expected =
            y.detach() / at::tanh(z) * (1 - at::tanh(z).pow(2));
        worst[k] = std::max(worst[k], distance(z.grad(), expected.detach()));
      }
    });
  for (std::thread& t : threads)
    t.join();
  for (double w : worst)
    EXPECT_LE(w, 1e-12);
}

TEST_F(Contract, NumbersThatSomebodyElseDrewMeanwhileAreAnError) {
  // What another thread does to the generator while the conditioner runs, here
  // done by the conditioner itself, and only once.
  StepSpec spec = dropoutSpec();
  spec.code = "def conditioner(self, z: Tensor):\n"
              "    return torch.dropout(invtest.draw_once(z), 0.5, "
              "True)\n";
  const at::Tensor z = inputs[1].clone().requires_grad_();
  const at::Tensor y = coupling(makeStep(spec), {inputs[0]}, {z}, {})[0];
  const std::string message = messageOf([&] { y.sum().backward(); });
  EXPECT_TRUE(contains(message, "cannot be drawn again")) << message;
  EXPECT_TRUE(contains(message, "blocks.3: net.py:41")) << message;
}

// --------------------------------------------------------------- forward mode

TEST_F(Contract, TangentsPass) {
  using torch::autograd::ForwardADLevel;
  const auto level = torch::autograd::ForwardADLevel::get_next_idx();
  const auto run = [&](bool plain, bool grad) {
    at::AutoGradMode mode(grad);
    const at::Tensor x = inputs[0].clone(), z = inputs[1].clone();
    x._set_fw_grad(at::ones_like(x), level, false);
    z._set_fw_grad(at::full_like(z, 2), level, false);
    const at::Tensor y =
        plain ? x + net(z, inputs[2], inputs[3])
              : coupling(step, {x}, {z}, {inputs[2], inputs[3]})[0];
    return y._fw_grad(level).clone();
  };
  for (bool grad : {false, true})
    EXPECT_EQ(distance(run(false, grad), run(true, grad)), 0);
  torch::autograd::ForwardADLevel::release_idx(level);
}

} // namespace
} // namespace inv::test
