// Hazards of faults: exceptions anywhere, memory that runs out at any moment.
#include "../support/FailingAllocator.h"
#include "HazardTest.h"

#include "inv/Abi.h"

namespace inv::test {
namespace {

class HazardFault : public Hazard {};

TEST_P(HazardFault, H20_AnExceptionInTheConditioner) {
  if (GetParam() == Door::Rewritten)
    GTEST_SKIP() << "inv-opt leaves operators of other libraries alone";
  Net net = makeNet(4, expression("torch.tanh(invtest.fail_once(z))",
                                  [](auto& z) { return at::tanh(z); }));
  for (int64_t n = 1; n <= 8; n++) { // four runs in forward, four in backward
    TestOps::failIn(n);
    const std::string message =
        messageOf([&] { run(net, false, inputs, bothSides); });
    EXPECT_TRUE(contains(message, "planted")) << n;
    expectNothingAlive();
    same(net, inputs, bothSides); // the next iteration
  }
}

TEST_P(HazardFault, H20_AnIndexOutOfRangeInTheConditioner) {
  if (onGpu())
    GTEST_SKIP() << "there it ends the process, as without steps";
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor, places: Tensor):\n"
           "    return torch.tanh(torch.index_select(z, 1, places))\n";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::index_select(z, 1, p[0]));
  };
  c.captures = [] { return Tensors{at::randperm(4, at::kLong)}; };
  Net net = makeNet(4, c);
  for (const Tensors& captures : net.ofStep)
    for (const bool inBackward : {false, true}) {
      auto* place = captures[0].data_ptr<int64_t>(); // which counts no version
      const int64_t right = *place;
      {
        const Tensors x = leaves(inputs);
        const std::string message = messageOf([&] {
          if (!inBackward)
            *place = 99;
          const Tensors y = net(x[0], x[1]);
          *place = 99;
          EXPECT_TRUE(inBackward);
          gradOf({bothSides(x, y)}, x);
        });
        EXPECT_TRUE(contains(message, "INDICES element is out of")) << message;
      }
      *place = right;
      expectNothingAlive();
      same(net, inputs, bothSides); // the next iteration
    }
}

/// Modules that are undone by a method of their own, one behind the other.
class Inverses {
public:
  explicit Inverses(Door door) : door_(door) {
    const std::string inverse =
        "def inverse(self, y: Tensor):\n"
        "    return torch.asinh(invtest.fail_once(y))\n";
    if (door == Door::Operator) {
      StepSpec spec;
      spec.numAux = 0;
      spec.code = "def function(self, x: Tensor):\n"
                  "    return torch.sinh(x)\n" +
                  inverse;
      step_ = makeStep(spec);
      return;
    }
    // A module with an inverse of its own is an annotated one.
    torch::jit::Module inner(c10::QualifiedName("__torch__.Inner"),
                             std::make_shared<torch::jit::CompilationUnit>());
    inner.register_attribute("training", c10::BoolType::get(), true);
    define(inner, "def forward(self, x: Tensor):\n"
                  "    return torch.sinh(x)\n" +
                      inverse);
    step_ = rewrittenOf(modelOf("def forward(self, x: Tensor):\n"
                                "    x = self.f.forward(x)\n"
                                "    x = self.f.forward(x)\n"
                                "    x = self.f.forward(x)\n"
                                "    return self.f.forward(x)\n",
                                {}, {{"f", inner}}),
                        undone());
  }
  at::Tensor operator()(at::Tensor x) {
    if (door_ == Door::Rewritten)
      return step_.forward({x}).toTensor();
    for (int64_t i = 0; i < kTimes; i++)
      x = bijection(step_, {x}, {})[0];
    return x;
  }
  static at::Tensor plain(const at::Tensor& x) {
    return x.sinh().sinh().sinh().sinh();
  }
  /// How many of them a backward undoes: the first's input is the caller's.
  int64_t undone() const {
    return door_ == Door::Rewritten ? kTimes - 1 : kTimes;
  }

private:
  static constexpr int64_t kTimes = 4;
  Door door_;
  torch::jit::Module step_; // or the model
};

TEST_P(HazardFault, H20_AnExceptionInTheInverse) {
  if (GetParam() == Door::Archive)
    GTEST_SKIP() << "the archive's steps are sums";
  Inverses chain(GetParam().door);
  const auto gradient = [&](bool plain) {
    const at::Tensor x = (inputs[0] * 0.1).requires_grad_();
    const at::Tensor y = plain ? Inverses::plain(x * 1) : chain(x * 1);
    return gradOf({y.sin().sum()}, {x});
  };
  const Tensors reference = gradient(true);
  for (int64_t n = 1; n <= chain.undone(); n++) {
    TestOps::failIn(n);
    EXPECT_TRUE(contains(messageOf([&] { gradient(false); }), "planted")) << n;
    expectNothingAlive();
    EXPECT_LE(distance(gradient(false), reference), 1e-12) << n;
  }
  resetStats();
  gradient(false);
  EXPECT_EQ(stats().inverses, chain.undone());
}

/// Runs `body` again and again, with the n-th allocation failing, until none
/// fails. After each failure nothing may be left, and `body` must work again.
/// Returns how many failed.
int64_t failEverywhere(const std::function<Tensors()>& body,
                       const Tensors& reference, double bound) {
  auto& allocator = FailingAllocator::installed();
  EXPECT_LE(distance(body(), reference), bound);
  for (int64_t n = 1;; n++) {
    allocator.countdown = n;
    const std::string message = messageOf([&] { body(); });
    const bool reached = allocator.countdown == 0;
    allocator.countdown = 0;
    if (!reached)
      return n - 1;
    // What autograd's queue of this thread still holds goes with its next run.
    at::ones({}).requires_grad_().sum().backward();
    EXPECT_TRUE(contains(message, "planted: out of memory")) << n << message;
    expectNothingAlive();
    EXPECT_LE(distance(body(), reference), bound) << n;
    if (testing::Test::HasFailure())
      return 0;
  }
}

TEST_P(HazardFault, H20_MemoryRunsOutAtEveryAllocation) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  Conditioner relu = tanhNet(4); // whose exact zeros are noted
  relu.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return torch.tanh(torch.linear(torch.relu(z), w, b))
)";
  relu.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(at::relu(z), p[0], p[1]));
  };
  Conditioner dropout = tanhNet(4); // whose numbers are drawn again
  dropout.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return torch.dropout(torch.tanh(torch.linear(z, w, b)), 0.3, True)
)";
  dropout.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::dropout(at::tanh(at::linear(z, p[0], p[1])), 0.3, true);
  };
  Conditioner sort = tanhNet(4); // which keeps its states
  sort.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    return torch.tanh(torch.linear(torch.sort(z, 1)[0], w, b))
)";
  sort.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(at::linear(std::get<0>(at::sort(z, 1)), p[0], p[1]));
  };
  inputs[0].select(0, 1).zero_();
  inputs[1].select(1, 1).zero_();
  for (const Conditioner& c : {tanhNet(4), relu, dropout, sort}) {
    Net net = makeNet(4, c);
    EXPECT_GT(failEverywhere([&] { return run(net, false, inputs, bothSides); },
                             run(net, true, inputs, bothSides), 1e-12),
              50);
  }
}

/// Three affine couplings with a side output and a buffer that they write.
/// Their growth is measured.
class Affine {
public:
  Affine(Door door, const at::Tensor& weight) : door_(door), weight_(weight) {
    if (door == Door::Operator) {
      StepSpec spec;
      spec.numAux = 2;
      spec.numSides = 1;
      spec.scratch = {1};
      spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, n: Tensor):
    n.add_(1)
    s = torch.tanh(torch.linear(z, w))
    return torch.exp(s), torch.tanh(z), s.sum(1)
def function(self, x: Tensor, s: Tensor, t: Tensor):
    return x * s + t
def inverse(self, y: Tensor, s: Tensor, t: Tensor):
    return (y - t) / s
def growth(self, y: Tensor, s: Tensor, t: Tensor):
    return torch.amax(torch.reciprocal(s))
)";
      step_ = makeStep(spec);
      return;
    }
    // Its buffer is the mean of a batch norm without effect on the values.
    std::string code = "def forward(self, a: Tensor, b: Tensor):\n"
                       "    loss = torch.zeros_like(a).sum()\n";
    for (int i = 0; i < kSteps; i++)
      code += R"(
    n = torch.batch_norm(torch.linear(b, self.w), None, None, self.mean, self.var, True, 0.1, 1e-5, False)
    s = torch.tanh(torch.linear(b, self.w)) + n * 0
    y = a * torch.exp(s) + torch.tanh(b)
    loss = loss + torch.sin(s.sum(1)).sum()
    a = b
    b = y
)";
    code += "    return a, b, loss\n";
    step_ = rewrittenOf(modelOf(code, {{"w", weight.detach().requires_grad_()},
                                       {"mean", random({4})},
                                       {"var", random({4}).exp()}}),
                        kSteps);
  }
  /// Both streams and a loss of what is beside them.
  Tensors operator()(at::Tensor a, at::Tensor b, bool plain) {
    if (!plain && door_ == Door::Rewritten) {
      const auto out = step_.forward({a, b}).toTuple();
      return {out->elements()[0].toTensor(), out->elements()[1].toTensor(),
              out->elements()[2].toTensor()};
    }
    const at::Tensor n = at::zeros({});
    at::Tensor loss = at::zeros({}, at::kDouble), read = b;
    for (int i = 0; i < kSteps; i++) {
      const at::Tensor w = weight(plain);
      const at::Tensor s = at::tanh(at::linear(b, w));
      const Tensors out =
          plain ? Tensors{a * at::exp(s) + at::tanh(b), s.sum(1), b}
                : coupling(step_, {a}, {b}, {w, n});
      loss = loss + out[1].sin().sum();
      a = out[2];
      read = b;
      b = out[0];
    }
    return {read, b, loss};
  }
  at::Tensor weight(bool plain) const {
    return !plain && door_ == Door::Rewritten ? step_.attr("w").toTensor()
                                              : weight_;
  }
  static constexpr int kSteps = 3;

private:
  Door door_;
  at::Tensor weight_;
  torch::jit::Module step_; // or the model
};

TEST_P(HazardFault, H20_MemoryRunsOutInAStepThatIsNoSum) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  if (GetParam() == Door::Archive)
    GTEST_SKIP() << "the archive's steps are sums";
  Affine chain(GetParam().door, random({4, 4}).requires_grad_());
  const auto body = [&](bool plain) {
    Tensors x = leaves(inputs);
    const Tensors y = chain(x[0], x[1], plain);
    x.push_back(chain.weight(plain));
    return gradOf({y[2] + y[0].sin().sum() + y[1].sum()}, x);
  };
  resetStats();
  body(false);
  EXPECT_EQ(stats().inverses, Affine::kSteps);
  EXPECT_GT(failEverywhere([&] { return body(false); }, body(true), 1e-11), 50);
}

TEST_P(HazardFault, H20_MemoryRunsOutInADoubleBackward) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  Net net = makeNet(3, tanhNet(4));
  const auto body = [&](bool plain) {
    const Tensors x = leaves(inputs);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const Tensors g = gradOf({bothSides(x, y)}, wanted, true, true);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const at::Tensor& t : g)
      sum = sum + t.pow(2).sum();
    return gradOf({sum}, wanted);
  };
  EXPECT_GT(failEverywhere([&] { return body(false); }, body(true), 1e-11),
            100);
}

TEST_P(HazardFault, H20_AGraphWhoseBackwardFailedRunsAgain) {
  if (onGpu())
    GTEST_SKIP() << "the CPU's allocator; test/gpu has test_h20_no_memory_left";
  // With retain_graph the same graph can be tried again, as plain autograd's.
  auto& allocator = FailingAllocator::installed();
  Net net = makeNet(4, tanhNet(4));
  const auto gradients = [&](bool plain) {
    const Tensors x = leaves(inputs);
    const Tensors y = plain ? net.plain(x[0], x[1]) : net(x[0], x[1]);
    const at::Tensor loss = bothSides(x, y);
    Tensors result;
    if (!plain)
      for (int64_t n = 1; n < 60; n += 7) {
        allocator.countdown = n;
        messageOf([&] { gradOf({loss}, x, true); });
        allocator.countdown = 0;
      }
    return gradOf({loss}, x);
  };
  EXPECT_LE(distance(gradients(false), gradients(true)), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardFault, everyDoor(), doorName);

} // namespace
} // namespace inv::test
