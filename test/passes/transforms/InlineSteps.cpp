#include "GraphTest.h"

#include "inv/Abi.h"
#include "passes/support/Error.h"
#include "passes/transforms/InlineSteps.h"

namespace inv::opt {
namespace {

using namespace inv::opt::testing;
using torch::jit::Module;

struct Rewritten {
  Module root{"__torch__.Root"};
  GraphPtr graph;
};

/// A root module with one step of the source given, registered as
/// `inv_step_0`, and a graph that calls it.
Rewritten
rewritten(const std::string& source,
          const std::vector<std::pair<std::string, c10::IValue>>& constants,
          const std::string& body) {
  Rewritten made;
  Module step("__torch__.inv.Step_0", made.root._ivalue()->compilation_unit());
  for (const auto& [name, value] : constants)
    step.type()->addConstant(name, value);
  step.define(source);
  made.root.register_module("inv_step_0", step);
  made.graph = parse("graph(%self, %x : Tensor, %y : Tensor):\n" + body);
  auto* self = made.graph->inputs()[0];
  self->setType(made.root.type());
  for (auto* node : made.graph->nodes())
    if (node->kind() == c10::prim::GetAttr)
      node->output()->setType(step.type());
  return made;
}

c10::IValue ints(std::vector<int64_t> values) {
  return c10::IValue(std::move(values));
}

Rewritten additive(const std::string& list = "%caps : Tensor[] = "
                                             "prim::ListConstruct(%y)") {
  return rewritten(R"PY(
def conditioner(self, z, w, n: int):
    h = torch.tanh(z * w) * n
    return h, h.sum()
def function(self, x, aux):
    return x + aux
def inverse(self, y, aux):
    return y - aux
)PY",
                   {{abi::kNumStates, int64_t{1}},
                    {abi::kNumAux, int64_t{1}},
                    {abi::kNumSides, int64_t{1}},
                    {abi::kFunctionCaptures, ints({})},
                    {abi::kFunctionExtras, ints({})}},
                   R"IR(
  inv::needs_libinv_runtime_abi_2()
  %three : int = prim::Constant[value=3]()
  %step = prim::GetAttr[name="inv_step_0"](%self)
  %xs : Tensor[] = prim::ListConstruct(%x)
  %zs : Tensor[] = prim::ListConstruct(%y)
  )IR" + list + R"IR(
  %extras : (int) = prim::TupleConstruct(%three)
  %s : Tensor[] = inv::coupling(%step, %xs, %zs, %caps, %extras)
  %y1 : Tensor, %side : Tensor, %z : Tensor = prim::ListUnpack(%s)
  %t : (Tensor, Tensor, Tensor) = prim::TupleConstruct(%y1, %side, %z)
  return (%t))IR");
}

int ourOperators(const GraphPtr& graph) {
  int found = 0;
  for (auto* node : graph->nodes())
    found += std::string(node->kind().toQualString()).rfind("inv::", 0) == 0;
  return found;
}

std::vector<at::Tensor> samples() {
  at::manual_seed(5);
  return {at::randn({3, 4}), at::randn({3, 4})};
}

TEST(InlineSteps, CouplingBecomesItsMethods) {
  auto model = additive();
  EXPECT_TRUE(runPass(inlineSteps, model.graph, model.root));
  EXPECT_EQ(ourOperators(model.graph), 0);
  auto plain = parse(R"IR(
graph(%self, %x : Tensor, %y : Tensor):
  %one : int = prim::Constant[value=1]()
  %n : int = prim::Constant[value=3]()
  %none : NoneType = prim::Constant()
  %m : Tensor = aten::mul(%y, %y)
  %t : Tensor = aten::tanh(%m)
  %h : Tensor = aten::mul(%t, %n)
  %s : Tensor = aten::sum(%h, %none)
  %r : Tensor = aten::add(%x, %h, %one)
  %o : (Tensor, Tensor, Tensor) = prim::TupleConstruct(%r, %s, %y)
  return (%o))IR");
  expectSame(plain, model.graph, samples(), &model.root);
}

TEST(InlineSteps, UnusedStepLeavesTheModule) {
  auto model = additive();
  ASSERT_TRUE(model.root.hasattr("inv_step_0"));
  runPass(inlineSteps, model.graph, model.root);
  EXPECT_FALSE(model.root.hasattr("inv_step_0"));
  EXPECT_EQ(model.root._ivalue()->slots().size(),
            model.root.type()->numAttributes());
}

TEST(InlineSteps, StepThatAnotherMethodReadsStays) {
  auto model = additive();
  Model both;
  both.module = model.root;
  both.methods.resize(2);
  both.methods[0].name = "forward";
  both.methods[0].graph = model.graph;
  both.methods[1].name = "other";
  both.methods[1].graph = model.graph->copy();
  Options options;
  Remarks remarks;
  PassContext ctx{both, both.methods[0], options, remarks};
  EXPECT_TRUE(inlineSteps(ctx));
  EXPECT_TRUE(both.module.hasattr("inv_step_0"));
  PassContext other{both, both.methods[1], options, remarks};
  EXPECT_TRUE(inlineSteps(other));
  EXPECT_FALSE(both.module.hasattr("inv_step_0"));
}

TEST(InlineSteps, BijectionWithoutExtras) {
  auto model = rewritten(R"PY(
def function(self, x, w):
    return x * w
def inverse(self, y, w):
    return y / w
)PY",
                         {{abi::kNumStates, int64_t{1}}}, R"IR(
  %none : NoneType = prim::Constant()
  %step = prim::GetAttr[name="inv_step_0"](%self)
  %xs : Tensor[] = prim::ListConstruct(%x)
  %caps : Tensor[] = prim::ListConstruct(%y)
  %s : Tensor[] = inv::bijection(%step, %xs, %caps, %none)
  %r : Tensor = prim::ListUnpack(%s)
  return (%r))IR");
  EXPECT_TRUE(runPass(inlineSteps, model.graph, model.root));
  auto plain = parse(R"IR(
graph(%self, %x : Tensor, %y : Tensor):
  %r : Tensor = aten::mul(%x, %y)
  return (%r))IR");
  expectSame(plain, model.graph, samples(), &model.root);
}

TEST(InlineSteps, CheckpointHandsItsStatesThrough) {
  auto model = rewritten(R"PY(
def conditioner(self, z):
    return torch.exp(z)
)PY",
                         {{abi::kNumSides, int64_t{1}}}, R"IR(
  %none : NoneType = prim::Constant()
  %step = prim::GetAttr[name="inv_step_0"](%self)
  %zs : Tensor[] = prim::ListConstruct(%x)
  %caps : Tensor[] = prim::ListConstruct()
  %s : Tensor[] = inv::checkpoint(%step, %zs, %caps, %none)
  %e : Tensor, %z : Tensor = prim::ListUnpack(%s)
  %r : Tensor = aten::mul(%e, %z)
  return (%r))IR");
  EXPECT_TRUE(runPass(inlineSteps, model.graph, model.root));
  EXPECT_EQ(ourOperators(model.graph), 0);
  EXPECT_EQ(first(model.graph, "aten::mul")->input(1),
            model.graph->inputs()[1]);
}

TEST(InlineSteps, ListFromElsewhereIsAnError) {
  auto model = additive("%n2 : int = prim::Constant[value=2]()\n"
                        "  %d : int = prim::Constant[value=0]()\n"
                        "  %caps : Tensor[] = aten::chunk(%y, %n2, %d)");
  EXPECT_THROW(runPass(inlineSteps, model.graph, model.root), Error);
}

TEST(InlineSteps, PlainGraphIsUnchanged) {
  auto graph = parse(R"IR(
graph(%x : Tensor):
  %y : Tensor = aten::exp(%x)
  return (%y))IR");
  EXPECT_FALSE(runPass(inlineSteps, graph));
}

} // namespace
} // namespace inv::opt
