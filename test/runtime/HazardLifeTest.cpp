// Hazards of life times: bytes at every moment of a backward, what survives,
// copies of a model, how deep the stack gets.
#include "HazardTest.h"

#include "inv/Abi.h"
#include "inv/CountingAllocator.h"

#include <c10/core/StorageImpl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/mobile/import.h>
#include <torch/csrc/jit/mobile/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <sstream>

namespace inv::test {
namespace {

class HazardLife : public Hazard {};

constexpr int64_t kRows = 64, kWidth = 4;
constexpr int64_t kDouble = sizeof(double);
constexpr int64_t kState = kRows * kWidth * kDouble;
constexpr int64_t kLoss = 2 * kDouble; // and its gradient

/// y = x + tanh(w z), with w a capture of one row.
Conditioner rowNet() {
  Conditioner c;
  c.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
           "    return torch.tanh(z * w)\n";
  c.plain = [](const at::Tensor& z, const Tensors& p) {
    return at::tanh(z * p[0]);
  };
  c.captures = [] { return Tensors{random({kWidth}).requires_grad_()}; };
  return c;
}

/// The bytes alive, above those before the forward, each time that the gradient
/// of a step's parameter is complete: last step first.
std::vector<int64_t> bytesOfBackward(Net& net, bool plain, bool retain) {
  const Tensors inputs = {random({kRows, kWidth}), random({kRows, kWidth})};
  const Tensors parameters = net.parameters();
  Tensors wanted = leaves(inputs);
  wanted.insert(wanted.end(), parameters.begin(), parameters.end());
  for (at::Tensor& t : wanted)
    t.mutable_grad() = at::zeros_like(t);
  const int64_t before = CountingAllocator::current();
  std::vector<int64_t> result;
  std::vector<unsigned> handles;
  for (const at::Tensor& p : parameters)
    handles.push_back(p.register_hook([&](const at::Tensor& g) {
      result.push_back(CountingAllocator::current() - before -
                       static_cast<int64_t>(g.nbytes()));
    }));
  at::Tensor loss;
  {
    const Tensors y =
        plain ? net.plain(wanted[0], wanted[1]) : net(wanted[0], wanted[1]);
    loss = y[0].sum() + y[1].sum(); // saves nothing
  }
  loss.backward({}, retain);
  for (size_t i = 0; i < parameters.size(); i++)
    parameters[i].remove_hook(handles[i]);
  return result;
}

/// By how much each entry is below the one before. Not at the two ends, where
/// gradients come from a sum and go to leaves, which takes other bytes.
std::vector<int64_t> falls(const std::vector<int64_t>& bytes) {
  std::vector<int64_t> result;
  for (size_t i = 2; i + 1 < bytes.size(); i++)
    result.push_back(bytes[i - 1] - bytes[i]);
  return result;
}

TEST_P(HazardLife, H22_BytesAtEveryStepOfABackward) {
  if (onGpu())
    GTEST_SKIP() << "counts bytes of the CPU; test/gpu has test_h22_bytes";
  CountingAllocator::install();
  constexpr int64_t kSteps = 8;
  Net net = makeNet(kSteps, rowNet());
  bytesOfBackward(net, false, false); // what is made once
  const auto all = [](int64_t n) {
    return std::vector<int64_t>(kSteps - 3, n);
  };
  // Two states and the gradients of two are alive throughout, and nothing for
  // the steps before.
  const auto freed = bytesOfBackward(net, false, false);
  ASSERT_EQ(freed.size(), size_t(kSteps));
  EXPECT_EQ(falls(freed), all(0));
  EXPECT_EQ(freed[3], 4 * kState + kLoss);
  // With retain_graph the two at the end stay, and each rebuilt one goes when
  // it goes without.
  const auto retained = bytesOfBackward(net, false, true);
  EXPECT_EQ(falls(retained), all(0));
  EXPECT_EQ(retained[3], 6 * kState + kLoss);

  // Steps that keep theirs: one state less with each.
  net.setMode(abi::kRecompute);
  EXPECT_EQ(falls(bytesOfBackward(net, false, false)), all(kState));
  EXPECT_EQ(falls(bytesOfBackward(net, false, true)), all(0));
  // Plain autograd keeps z and the result of tanh.
  net.setMode(abi::kStore);
  EXPECT_EQ(falls(bytesOfBackward(net, false, false)), all(2 * kState));
  EXPECT_EQ(falls(bytesOfBackward(net, true, false)), all(2 * kState));
  EXPECT_EQ(falls(bytesOfBackward(net, false, true)), all(0));
}

TEST_P(HazardLife, H22_BytesAreTheSameAfterAThousandIterations) {
  if (onGpu())
    GTEST_SKIP() << "counts bytes of the CPU; test/gpu has test_h22_bytes";
  CountingAllocator::install();
  Net net = makeNet(4, tanhNet(4));
  const auto once = [&] { run(net, false, inputs, bothSides); };
  for (int i = 0; i < 3; i++)
    once();
  const int64_t before = CountingAllocator::current();
  for (int i = 0; i < 1000; i++)
    once();
  EXPECT_EQ(CountingAllocator::current(), before);
}

using Weak = c10::weak_intrusive_ptr<c10::StorageImpl>;

TEST_P(HazardLife, H22_NothingSurvivesItsLastUser) {
  std::vector<Weak> memory;
  std::weak_ptr<torch::autograd::Node> node;
  std::weak_ptr<torch::jit::CompilationUnit> code;
  for (const bool backward : {false, true}) {
    {
      Net net = makeNet(4, tanhNet(4));
      if (GetParam() == Door::Archive)
        code = net.model()._ivalue()->compilation_unit();
      const Tensors x = leaves(inputs);
      const Tensors y = net(x[0], x[1]);
      node = y[1].grad_fn();
      for (const Tensors& list : {x, y, net.captures()})
        for (const at::Tensor& t : list)
          memory.push_back(t.storage().getWeakStorageImpl());
      if (backward)
        bothSides(x, y).backward({}, /*retain_graph=*/true);
      // Of the model nothing is needed but its outputs.
      net = makeNet(1, tanhNet(4));
      ASSERT_FALSE(node.expired());
      if (!backward) { // the steps still can
        EXPECT_TRUE(gradOf({bothSides(x, y)}, x, true)[0].defined());
      }
    }
    EXPECT_TRUE(node.expired());
    EXPECT_TRUE(code.expired());
    for (const Weak& w : memory)
      EXPECT_TRUE(w.expired());
    expectNothingAlive();
    memory.clear();
  }
}

// ---------------------------------------------------------------------- copies

TEST_P(HazardLife, H24_CopiesOfTheModel) {
  if (GetParam() == Door::Operator)
    GTEST_SKIP() << "a model is needed";
  Net net = makeNet(4, tanhNet(4));
  const Tensors reference = run(net, false, inputs, bothSides);
  net.model() = net.model().deepcopy();
  net.refresh();
  for (Tensors& captures : net.ofStep) // deepcopy's are no leaves
    for (at::Tensor& t : captures)
      EXPECT_TRUE(t.requires_grad());
  EXPECT_EQ(distance(run(net, false, inputs, bothSides), reference), 0);
  net.model().to(at::kFloat);
  net.refresh();
  same(net, {inputs[0].to(at::kFloat), inputs[1].to(at::kFloat)}, bothSides,
       5e-6);
  net.model().to(at::kDouble);
  net.refresh();
  net.model().eval();
  same(net, inputs, bothSides);
  net.model().train();
  same(net, inputs, bothSides);
  net.model() = net.model().clone(); // with types of its own
  net.refresh();
  same(net, inputs, bothSides);
}

TEST_P(HazardLife, H24_InsideOfAnotherModel) {
  if (GetParam() == Door::Operator)
    GTEST_SKIP() << "a model is needed";
  Net net = makeNet(4, tanhNet(4));
  torch::jit::Module outer = modelOf(R"(
def forward(self, a: Tensor, b: Tensor):
    a, b = self.inner.forward(a, b)
    a, b = self.inner.forward(b, a)
    return a, b
)",
                                     {}, {{"inner", net.model()}});
  const auto run = [&](bool plain) {
    const Tensors x = leaves(inputs);
    Tensors wanted = x;
    for (const at::Tensor& p : net.parameters())
      wanted.push_back(p);
    Tensors y;
    if (plain) {
      y = net.plain(x[0], x[1]);
      y = net.plain(y[1], y[0]);
    } else {
      const auto out = outer.forward({x[0], x[1]}).toTuple();
      y = {out->elements()[0].toTensor(), out->elements()[1].toTensor()};
    }
    return gradOf({bothSides(x, y)}, wanted);
  };
  EXPECT_LE(distance(run(false), run(true)), 1e-12);
}

// ------------------------------------------------------------------- executors

/// What a call of `model` says that lost the methods of its steps.
std::string messageOfCall(const std::function<void()>& call) {
  std::string message = messageOf(call);
  EXPECT_TRUE(contains(message, "--passes=inline-steps")) << message;
  return message;
}

TEST_P(HazardLife, H24_FrozenModelsAreRefusedWithTheWayOut) {
  if (GetParam() == Door::Operator)
    GTEST_SKIP() << "a model is needed";
  Net net = makeNet(2, tanhNet(4));
  net.model().eval();
  const std::vector<c10::IValue> x = {inputs[0], inputs[1]};
  auto frozen = torch::jit::freeze(net.model());
  messageOfCall([&] { frozen.forward(x); });
  auto copy = net.model().clone();
  copy.eval();
  auto optimized = torch::jit::optimize_for_inference(copy);
  messageOfCall([&] { optimized.forward(x); });
  // The model itself is as it was.
  net.model().train();
  same(net, inputs, bothSides);
}

TEST_P(HazardLife, H24_TheMobileFormatIsRefusedWithTheWayOut) {
  if (onGpu())
    GTEST_SKIP() << "mobile models run on the CPU";
  if (GetParam() == Door::Operator)
    GTEST_SKIP() << "a model is needed";
  Net net = makeNet(2, tanhNet(4));
  std::stringstream archive;
  net.model()._save_for_mobile(archive);
  auto mobile = torch::jit::_load_for_mobile(archive);
  messageOfCall([&] { mobile.forward({inputs[0], inputs[1]}); });
}

TEST_P(HazardLife, H24_SavedAgain) {
  if (GetParam() == Door::Operator)
    GTEST_SKIP() << "a model is needed";
  Net net = makeNet(4, tanhNet(4));
  const Tensors reference = run(net, true, inputs, bothSides);
  for (int i = 0; i < 2; i++) {
    std::stringstream archive;
    net.model().save(archive);
    net.model() = torch::jit::load(archive);
    net.refresh();
    EXPECT_LE(distance(run(net, false, inputs, bothSides), reference), 1e-12);
  }
}

// ----------------------------------------------------------------------- stack

/// A stack that is filled with a pattern, below it a page that nobody may
/// touch.
class Stack {
public:
  explicit Stack(size_t bytes) : bytes_(bytes) {
    memory_ = static_cast<char*>(mmap(nullptr, bytes_ + kGuard,
                                      PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(memory_, MAP_FAILED);
    EXPECT_EQ(mprotect(memory_, kGuard, PROT_NONE), 0);
    std::fill(begin(), end(), kPattern);
  }
  ~Stack() { munmap(memory_, bytes_ + kGuard); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  /// Runs `body` on a thread with this stack.
  void run(const std::function<void()>& body) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    ASSERT_EQ(pthread_attr_setstack(&attributes, begin(), bytes_), 0);
    pthread_t thread;
    ASSERT_EQ(pthread_create(
                  &thread, &attributes,
                  [](void* f) -> void* {
                    (*static_cast<const std::function<void()>*>(f))();
                    return nullptr;
                  },
                  const_cast<std::function<void()>*>(&body)),
              0);
    pthread_join(thread, nullptr);
    pthread_attr_destroy(&attributes);
  }

  /// Bytes from the deepest that was written.
  size_t used() {
    return static_cast<size_t>(end() - std::find_if(begin(), end(), [](char c) {
                                 return c != kPattern;
                               }));
  }

private:
  static constexpr size_t kGuard = 4096;
  static constexpr char kPattern = 0x5a;
  char* begin() { return memory_ + kGuard; }
  char* end() { return begin() + bytes_; }

  size_t bytes_;
  char* memory_;
};

TEST_P(HazardLife, H28_TwoThousandStepsWith64KiBOfStackToSpare) {
  if (onGpu())
    GTEST_SKIP() << "a GPU's backward runs on a thread of autograd's own";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's frames are larger, and stacks its own";
#endif
  const auto training = [&](int64_t steps) {
    auto net = std::make_shared<Net>(
        makeNet(steps, expression("torch.tanh(z) * 1e-3",
                                  [](auto& z) { return at::tanh(z) * 1e-3; })));
    return [this, net] { // forward, backward, the graph's end
      const Tensors plain = run(*net, true, inputs, bothSides);
      EXPECT_LE(distance(run(*net, false, inputs, bothSides), plain), 1e-11);
      { // a graph that dies without a backward
        const Tensors x = leaves(inputs);
        (*net)(x[0], x[1]);
      }
      // One whose states are all pulled, for its first step; kept, and dropped
      // as a whole.
      const Tensors x = leaves(inputs);
      const Tensors first = coupling(net->step(), {x[0]}, {x[1]}, {});
      const Tensors y = (*net)(first[1], first[0]);
      const int64_t before = stats().pulls;
      gradOf({first[0].sin().sum()}, x, /*retain=*/true);
      EXPECT_EQ(stats().pulls - before,
                static_cast<int64_t>(net->ofStep.size()));
      gradOf({bothSides(x, y)}, x, /*retain=*/true);
    };
  };
  constexpr size_t kLarge = 8 << 20, kSpare = 64 << 10, kPage = 4096;
  training(2)(); // what is made once
  Stack large(kLarge);
  large.run(training(2));
  const size_t two = large.used();
  RecordProperty("bytes_for_two_steps", std::to_string(two));
  Stack small((two + kSpare + kPage - 1) / kPage * kPage);
  small.run(training(2000)); // or it touches the guard
  RecordProperty("bytes_for_two_thousand_steps", std::to_string(small.used()));
}

INSTANTIATE_TEST_SUITE_P(Doors, HazardLife, everyDoor(), doorName);

} // namespace
} // namespace inv::test
