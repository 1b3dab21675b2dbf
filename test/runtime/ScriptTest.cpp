// Steps inside a scripted method, as inv-opt writes them: every executor, over
// several calls; saving and loading. The graphs are built by hand, so that the
// runtime is tested without the compiler.
#include "Steps.h"

#include "inv/Abi.h"
#include "inv/CountingAllocator.h"
#include "inv/Runtime.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/profiling_graph_executor_impl.h>
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>

namespace inv::test {
namespace {

namespace jit = torch::jit;

std::string weightName(int64_t i) { return "w" + std::to_string(i); }

jit::Module dropoutStep(double p) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.functionExtras = {};
  spec.code = "def conditioner(self, z: Tensor, w: Tensor):\n"
              "    h = torch.tanh(torch.linear(z, w))\n";
  if (p > 0)
    spec.code += "    h = torch.dropout(h, " + std::to_string(p) + ", True)\n";
  spec.code += "    return torch.tanh(torch.linear(h, w))\n";
  return makeStep(spec);
}

/// One step of forward: takes a and b, leaves the stream read and the new one.
void insertStep(jit::Graph& graph, jit::Value* self, int64_t i, jit::Value*& a,
                jit::Value*& b) {
  const auto list = [&](jit::Value* v) {
    return graph.insertNode(graph.createList(c10::TensorType::get(), {v}))
        ->output();
  };
  jit::Value* step = graph.insertGetAttr(self, "inv_step_0");
  jit::Value* w = graph.insertGetAttr(self, weightName(i));
  jit::Node* call = graph.create(
      c10::Symbol::fromQualString(abi::kCoupling),
      {step, list(a), list(b), list(w), graph.insertConstant(c10::IValue())});
  call->output()->setType(c10::ListType::ofTensors());
  graph.insertNode(call);
  jit::Node* unpack =
      graph.insertNode(graph.createListUnpack(call->output(), 2));
  a = unpack->output(1);
  b = unpack->output(0);
}

/// A model of `blocks` blocks of two steps, over two streams.
jit::Module makeModel(int64_t blocks, double dropout = 0, int64_t width = 4,
                      at::ScalarType dtype = at::kDouble) {
  jit::Module model(c10::QualifiedName("__torch__.Model"),
                    std::make_shared<jit::CompilationUnit>());
  for (int64_t i = 0; i < 2 * blocks; i++)
    model.register_parameter(weightName(i),
                             (at::randn({width, width}, dtype) /
                              std::sqrt(static_cast<double>(width)))
                                 .requires_grad_(),
                             /*is_buffer=*/false);
  model.register_module("inv_step_0", dropoutStep(dropout));
  auto graph = std::make_shared<jit::Graph>();
  jit::Value* self = graph->addInput("self")->setType(model.type());
  jit::Value *a = graph->addInput("x1"), *b = graph->addInput("x2");
  const std::string needs = abi::kNeedsPrefix + std::to_string(abi::kVersion);
  graph->insertNode(
      graph->create(c10::Symbol::fromQualString(needs), /*num_outputs=*/0));
  for (int64_t i = 0; i < 2 * blocks; i++)
    insertStep(*graph, self, i, a, b);
  graph->registerOutput(
      graph->insertNode(graph->createTuple({a, b}))->output());
  auto* forward = model._ivalue()->compilation_unit()->create_function(
      c10::QualifiedName(*model.type()->name(), "forward"), graph);
  model.type()->addMethod(forward);
  return model;
}

Tensors weights(const jit::Module& model) {
  Tensors result;
  for (const at::Tensor& p : model.parameters())
    result.push_back(p);
  return result;
}

/// Outputs, then gradients of inputs and weights.
Tensors trainOn(const Tensors& x, const Tensors& w, at::Tensor a,
                at::Tensor b) {
  for (at::Tensor t : w)
    t.mutable_grad() = at::Tensor();
  (a.sin().sum() + b.exp().sum()).backward();
  Tensors result = {a.detach(), b.detach()};
  for (const Tensors& of : {x, w})
    for (const at::Tensor& g : gradsOf(of))
      result.push_back(g);
  return result;
}

Tensors train(jit::Module model, const Tensors& inputs) {
  at::manual_seed(9);
  const Tensors x = leaves(inputs);
  const auto out = model.forward({x[0], x[1]}).toTuple();
  return trainOn(x, weights(model), out->elements()[0].toTensor(),
                 out->elements()[1].toTensor());
}

Tensors trainPlain(const jit::Module& model, const Tensors& inputs,
                   double dropout) {
  at::manual_seed(9);
  const Tensors x = leaves(inputs);
  const Tensors w = leaves(weights(model));
  at::Tensor a = x[0], b = x[1];
  for (const at::Tensor& weight : w) {
    at::Tensor h = at::tanh(at::linear(b, weight));
    if (dropout > 0)
      h = at::dropout(h, dropout, true);
    const at::Tensor y = a + at::tanh(at::linear(h, weight));
    a = b;
    b = y;
  }
  return trainOn(x, w, a, b);
}

struct Executor {
  bool profiling, optimize;
};

class Script : public testing::TestWithParam<Executor> {
protected:
  void SetUp() override {
    at::manual_seed(4);
    profiling_ = jit::getExecutorMode().exchange(GetParam().profiling);
    optimize_ = jit::getGraphExecutorOptimize();
    jit::setGraphExecutorOptimize(GetParam().optimize);
  }
  void TearDown() override {
    jit::getExecutorMode() = profiling_;
    jit::setGraphExecutorOptimize(optimize_);
    expectNothingAlive();
  }
  bool profiling_ = true, optimize_ = true;
  Tensors inputs = {at::randn({3, 4}, at::kDouble),
                    at::randn({3, 4}, at::kDouble)};
};

TEST_P(Script, EveryCallTrainsAndNoStepIsMergedOrDropped) {
  for (double dropout : {0.0, 0.25}) {
    jit::Module model = makeModel(2, dropout);
    const Tensors plain = trainPlain(model, inputs, dropout);
    for (int call = 0; call < 4; call++) {
      resetStats();
      const Tensors ours = train(model, inputs);
      EXPECT_TRUE(at::equal(ours[0], plain[0])) << "call " << call;
      EXPECT_TRUE(at::equal(ours[1], plain[1])) << "call " << call;
      EXPECT_LE(distance(ours, plain), 1e-12) << "call " << call;
      EXPECT_EQ(stats().conditioners, 2 * 4);
      EXPECT_EQ(stats().kept, 0);
    }
  }
}

TEST_P(Script, SavedLoadedAndSavedAgainItTrainsTheSame) {
  jit::Module model = makeModel(2, 0.25);
  const Tensors before = train(model, inputs);
  for (int round = 0; round < 2; round++) {
    std::stringstream archive;
    model.save(archive);
    model = jit::load(archive);
    EXPECT_EQ(distance(train(model, inputs), before), 0) << round;
  }
  model.attr("inv_step_0")
      .toModule()
      .setattr(abi::kMode, std::string(abi::kStore));
  resetStats();
  EXPECT_LE(distance(train(model, inputs), before), 1e-12);
  EXPECT_EQ(stats().conditioners, 4); // nothing runs again
}

/// Peaks of four training steps in a row, gradients allocated beforehand.
std::vector<int64_t> peaks(int64_t blocks) {
  // The first run of a new step frees what dead ones left behind.
  coupling(sumStep(), {at::ones({1, 1})}, {at::ones({1, 1})},
           {at::ones({1, 1}), at::ones({1})});
  jit::Module model = makeModel(blocks, 0, 16, at::kFloat);
  for (at::Tensor p : weights(model))
    p.mutable_grad() = at::zeros_like(p);
  const at::Tensor x1 = at::randn({64, 16}), x2 = at::randn({64, 16});
  std::vector<int64_t> result;
  for (int call = 0; call < 4; call++) {
    const int64_t before = CountingAllocator::current();
    CountingAllocator::resetPeak();
    {
      const auto out =
          model.forward({(x1 * 1).requires_grad_(), (x2 * 1).requires_grad_()})
              .toTuple();
      (out->elements()[0].toTensor().sum() +
       out->elements()[1].toTensor().sum())
          .backward();
    }
    result.push_back(CountingAllocator::peak() - before);
  }
  return result;
}

TEST_P(Script, PeakBytesAreTheSameAtEveryDepthAndInEveryExecutor) {
  CountingAllocator::install();
  peaks(1); // what a process makes once
  const std::vector<int64_t> at8 = peaks(8);
  EXPECT_EQ(peaks(32), at8);
  EXPECT_EQ(peaks(128), at8);
  jit::setGraphExecutorOptimize(false);
  EXPECT_EQ(peaks(8), at8);
}

INSTANTIATE_TEST_SUITE_P(
    Executors, Script,
    testing::Values(Executor{true, true}, Executor{true, false},
                    Executor{false, true}, Executor{false, false}),
    [](const auto& info) {
      return std::string(info.param.profiling ? "Profiling" : "Legacy") +
             (info.param.optimize ? "Optimized" : "Plain");
    });

TEST(AbiVersion, TheLibraryServesItsOwn) {
  EXPECT_EQ(abiVersion(), abi::kVersion);
  for (int64_t v = abi::kOldestSupported; v <= abi::kVersion; v++)
    callOp((abi::kNeedsPrefix + std::to_string(v)).c_str(), {});
}

} // namespace
} // namespace inv::test
