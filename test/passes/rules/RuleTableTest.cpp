// Every family of Rules.def, in float64: the operator stands on the state of a
// chain, the analysis undoes it by that family, and training goes on as with
// plain autograd. A family without an example here fails the test.
#include "passes/Passes.h"
#include "passes/analysis/Invertibility.h"
#include "passes/import/InlineCalls.h"
#include "passes/rules/Rule.h"

#include "inv/Runtime.h"

#include <ATen/ATen.h>
#include <ATen/ops/linalg_qr.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <cmath>
#include <map>
#include <ostream>
#include <set>

namespace inv::opt::testing {
namespace {

using namespace torch::jit;

struct Example {
  const char* family; ///< of Rules.def
  const char* rule;   ///< the name that the derivation must carry
  const char* lines;  ///< y from x [3, 4, 6], with z of the same size
};

void PrintTo(const Example& e, std::ostream* out) { *out << e.lines; }

// Values of x lie between 0.2 and 1.8, those of z between -1 and 1.
const Example kExamples[] = {
    {"sum", "sum", "y = x + torch.sin(z)"},
    {"sum", "sum", "y = torch.sin(z) - x"},
    {"sum", "sum", "y = torch.rsub(x, torch.sin(z), alpha=2)"},
    {"sum", "sum", "y = torch.add(x, torch.sin(z), alpha=-0.5)"},
    {"scale", "scale", "y = x * 0.75"},
    {"scale", "scale", "y = x / 3"},
    {"scale", "neg", "y = -x"},
    {"scale", "shift", "y = x + self.p"},
    {"scale", "shift", "y = x - 2.5"},
    {"product", "product", "y = x * torch.exp(z)"},
    {"product", "product", "y = torch.sigmoid(z) * x"},
    {"product", "product", "y = x / (0.5 + torch.sigmoid(z))"},
    {"product", "product", "y = x * torch.exp(self.p)"},
    {"layout", "layout", "y = x.permute(2, 0, 1)"},
    {"layout", "layout", "y = x.transpose(0, 2)"},
    {"layout", "layout", "y = x.flatten(1)"},
    {"layout", "layout", "y = x.reshape(6, 12)"},
    {"layout", "layout", "y = x.unsqueeze(1)"},
    {"layout", "layout", "y = x.flip([0, 2])"},
    {"layout", "layout", "y = torch.roll(x, [1, -2], [0, 2])"},
    {"layout", "layout", "y = x.clone()"},
    {"layout", "layout", "y = x.movedim(0, 2)"},
    {"layout", "layout", "y = torch.movedim(x, [0, 1], [2, 0])"},
    {"layout", "layout", "y = torch.rot90(x, 1, [1, 2])"},
    {"layout", "layout", "y = torch.channel_shuffle(x.unsqueeze(3), 2)"},
    {"layout", "layout", "y = x.unfold(2, 3, 3)"},
    {"layout", "layout", "y = x.unfold(-2, 2, 2)"},
    {"layout", "layout", "y = x.mT"},
    {"layout", "layout",
     "y = torch.im2col(x.unsqueeze(1), [2, 3], [1, 1], "
     "[0, 0], [2, 3])"},
    {"split-join", "split",
     "a, b = torch.chunk(x, 2, 1)\n    y = a.sin() * b.cos()"},
    {"split-join", "split",
     "a, b = torch.split(x, [1, 5], 2)\n    y = torch.sin(a) * torch.cos(b)"},
    {"split-join", "unbind",
     "a, b, c = torch.unbind(x, 0)\n    y = a.sin() * b.cos() + c.sin()"},
    {"split-join", "split",
     "a, b = torch.vsplit(x.transpose(0, 1), 2)\n    y = a.sin() * b.cos()"},
    {"split-join", "split",
     "a, b = torch.hsplit(x, [1])\n    y = torch.cat([b.sin(), a.cos()], 1)"},
    {"split-join", "join", "y = torch.cat([x, torch.sin(z)], 2)"},
    {"split-join", "stack", "y = torch.stack([torch.sin(z), x], 1)"},
    {"parts", "part", "y = x[:, :, ::2].sin() * x[:, :, 1::2].cos()"},
    {"parts", "part",
     "y = x[:, ::3].sin()\n    y = torch.cat([y, x[:, 1::3], x[:, 2::3]], 1)"},
    {"parts", "part", "y = x[:, :, self.order]"},
    {"parts", "part", "y = x[:, self.first]"},
    {"parts", "part",
     "y = x[:, 0:1].sin() * x[:, 1:2].cos() + x[:, 2:3].sin() * x[:, "
     "3:4].cos()"},
    {"parts", "part",
     "y = x.narrow(2, 0, 2).sin() * x.narrow(2, 2, 2).cos() * "
     "x.narrow(2, 4, 2).sin()"},
    {"parts", "part",
     "y = x[:, ::2, ::2].cos() * x[:, 1::2, ::2].sin() + "
     "x[:, ::2, 1::2].cos() * x[:, 1::2, 1::2].sin()"},
    {"parts", "part", "y = torch.index_select(x, 1, self.rows)"},
    {"parts", "part",
     "y = x[:, self.rows[:3]].sin() * x[:, self.rows[3:]].cos()"},
    {"parts", "part", "y = (x[0].sin() * x.select(0, 1).cos()) * x[2].sin()"},
    {"mask", "mask", "y = torch.sin(self.m * x) + torch.cos((1 - self.m) * x)"},
    {"mask", "mask",
     "y = torch.where(self.b, x, z).sin() * torch.where(self.b, z, x).cos()"},
    {"mask", "mask",
     "y = x.masked_fill(self.b, 0).sin() * x.masked_fill(~self.b, 0.5).cos()"},
    {"mask", "masked-sum",
     "k = self.m * x\n"
     "    y = k + (1 - self.m) * (x * torch.exp(k) + torch.sin(k))"},
    {"held", "held",
     "k = self.m * x\n"
     "    y = x * torch.exp((1 - self.m) * torch.sin(k)) + (1 - self.m) * "
     "torch.cos(k)"},
    {"held", "held",
     "k = torch.where(self.b, x, 0.)\n"
     "    y = torch.where(self.b, x, x + torch.cos(k))"},
    {"written", "written",
     "a, b = torch.chunk(x, 2, 1)\n    y = torch.empty_like(x)\n"
     "    y[:, ::2] = b\n    y[:, 1::2] = a"},
    {"written", "written",
     "y = torch.zeros_like(x)\n    y[:, self.rows] = torch.sin(z) + x"},
    {"written", "written",
     "y = torch.zeros([3, 4, 9], dtype=x.dtype)\n    y[:, :, 1:7] = x"},
    {"written", "written",
     "y = x.clone()\n    y[:, :, 2:] += torch.sin(x[:, :, :2]).repeat(1, 1, "
     "2)"},
    {"padding", "padding", "y = torch.constant_pad_nd(x, [1, 2, 0, 1], 0.5)"},
    {"padding", "padding", "y = torch.pad(x, [2, 1], 'reflect')"},
    {"padding", "padding", "y = torch.replication_pad1d(x, [1, 1])"},
    {"linear", "linear", "y = torch.linear(x, self.square, self.p)"},
    {"linear", "linear", "y = torch.matmul(self.four, x)"},
    {"linear", "linear", "y = torch.einsum('bij,kj->bik', x, self.tall)"},
    {"linear", "linear", "y = torch.einsum('ik,bij->bkj', self.four, x)"},
    {"linear", "linear",
     "y = torch.linear(x, torch.matrix_exp(self.square - self.square.t()))"},
    {"linear", "linear",
     "l = self.square.tril(-1) + self.eye\n"
     "    u = self.square.triu(1) + torch.diag(self.p.exp())\n"
     "    y = torch.matmul(x, self.swap @ l @ u)"},
    {"linear", "linear", "y = torch.linear(x, self.tall)"},
    {"linear", "linear", "y = torch.matmul(x, self.square)"},
    {"convolution", "convolution", "y = torch.conv1d(x, self.kernel)"},
    {"convolution", "convolution", "y = torch.conv1d(x, self.kernel, self.q)"},
    {"convolution", "convolution",
     "y = torch.conv1d(x, self.patches, self.q2, stride=2)"},
    {"convolution", "convolution",
     "y = torch.conv1d(x, self.grouped, None, 2, 0, 1, 2)"},
    {"convolution", "convolution",
     "y = torch.conv2d(x.unsqueeze(1), self.image, None, [2, 3])"},
    {"convolution", "convolution",
     "y = torch.conv_transpose1d(x, self.spread, None, 2)"},
    {"normalisation", "normalisation",
     "y = torch.batch_norm(x, self.s, self.q, None, None, True, 0.1, 1e-5, "
     "False)"},
    {"normalisation", "normalisation",
     "y = torch.batch_norm(x, self.s, self.q, self.mean, self.var, True, 0.1, "
     "1e-5, False)"},
    {"normalisation", "normalisation",
     "y = torch.batch_norm(x, self.s, self.q, self.mean, self.var, False, 0.1, "
     "1e-5, False)"},
    {"normalisation", "normalisation",
     "y = torch.batch_norm(x, self.s, self.q, self.mean, self.var, "
     "self.training, 0.1, 1e-5, False)"},
    {"normalisation", "normalisation",
     "y = torch.instance_norm(x, self.s, self.q, None, None, True, 0.1, 1e-5, "
     "False)"},
    {"normalisation", "normalisation",
     "y = torch.layer_norm(x, [6], 1.0 + 0.1 * torch.sin(self.p), self.p)"},
    {"normalisation", "normalisation",
     "y = torch.group_norm(x, 2, self.s, self.q)"},
    {"activation", "activation", "y = torch.leaky_relu(x - 1.0, 0.5)"},
    {"activation", "activation", "y = torch.prelu(x - 1.0, self.s)"},
    {"activation", "activation", "y = torch.logit(0.45 * x)"},
    {"activation", "activation", "y = torch.atanh(0.5 * x)"},
    {"activation", "activation", "y = torch.log1p(x)"},
    {"activation", "activation",
     "y = torch.expm1(torch.linear(x, self.square))"},
    {"activation", "activation",
     "y = torch.log_sigmoid(torch.linear(x, self.square))"},
    {"activation", "activation", "y = torch.softplus(x - 1.0, 2, 30)"},
    {"activation", "activation", "y = torch.elu(x - 1.0, 1.5)"},
    {"activation", "activation", "y = torch.selu(x - 1.0)"},
    {"activation", "activation", "y = torch.celu(x - 1.0, 0.7)"},
    {"activation", "activation", "y = torch.softplus(x - 1.0)"},
    {"activation", "activation",
     "y = torch.sigmoid(torch.linear(x, self.square))"},
    {"activation", "activation",
     "y = torch.tanh(torch.linear(x, self.square))"},
    {"activation", "activation", "y = torch.atan(x)"},
    {"activation", "activation", "y = torch.sinh(x)"},
    {"activation", "activation", "y = torch.asinh(x)"},
    {"activation", "activation", "y = torch.exp(torch.linear(x, self.square))"},
    {"activation", "activation", "y = torch.log(x)"},
    {"annotated", "annotated", "y = self.twice.forward(x)"},
};

at::Tensor randomDouble(at::IntArrayRef sizes, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(sizes, generator, at::TensorOptions(at::kDouble));
}

Module moduleOf(const Example& example) {
  Module twice("Twice");
  twice.register_parameter(
      "s", at::full({}, 2.0, at::kDouble).set_requires_grad(true), false);
  twice.define("def forward(self, x):\n    return x * self.s\n"
               "def inverse(self, y):\n    return y / self.s\n");
  Module m("Rules");
  const auto parameter = [&](const char* name, const at::Tensor& value) {
    m.register_parameter(name, value.clone().set_requires_grad(true), false);
  };
  const at::Tensor square = std::get<0>(at::linalg_qr(randomDouble({6, 6}, 1)));
  parameter("square", square);
  parameter("tall", std::get<0>(at::linalg_qr(randomDouble({9, 6}, 2))));
  parameter("kernel",
            std::get<0>(at::linalg_qr(randomDouble({4, 4}, 3))).unsqueeze(2));
  parameter("p", randomDouble({6}, 4) * 0.3);
  parameter("q", randomDouble({4}, 5) * 0.3);
  parameter("four", std::get<0>(at::linalg_qr(randomDouble({4, 4}, 8))));
  parameter("s", 1 + 0.2 * randomDouble({4}, 9).tanh());
  parameter("q2", randomDouble({8}, 10) * 0.3);
  const auto orthogonal = [](int64_t rows, int64_t columns, uint64_t seed) {
    return std::get<0>(at::linalg_qr(randomDouble({rows, columns}, seed)));
  };
  parameter("patches", orthogonal(8, 8, 11).reshape({8, 4, 2}));
  parameter(
      "grouped",
      at::cat({orthogonal(4, 4, 12), orthogonal(4, 4, 13)}).reshape({8, 2, 2}));
  parameter("image", orthogonal(6, 6, 14).reshape({6, 1, 2, 3}));
  parameter("spread", orthogonal(4, 4, 15).reshape({4, 2, 2}));
  m.register_attribute("training", c10::BoolType::get(), true);
  m.register_buffer("eye", at::eye(6, at::kDouble));
  m.register_buffer("swap", at::eye(6, at::kDouble).flip({0}));
  m.register_buffer("mean", randomDouble({4}, 16) * 0.3);
  m.register_buffer("var", 0.5 + randomDouble({4}, 17).square());
  m.register_buffer("first", at::arange(4));
  m.register_buffer("order", at::tensor({3, 0, 5, 1, 4, 2}, at::kLong));
  m.register_buffer("rows", at::tensor({2, 0, 3, 1}, at::kLong));
  const at::Tensor mask = at::tensor({1., 0., 0., 1., 1., 0.}, at::kDouble);
  m.register_buffer("m", mask);
  m.register_buffer("b", mask.to(at::kBool));
  m.register_module("twice", twice);
  m.define("def forward(self, x, z):\n"
           "    z = torch.tanh(z)\n"
           "    x = 1.0 + 0.5 * torch.tanh(x)\n"
           "    x = torch.sin(x) + 0.3 * torch.cos(z)\n"
           "    " +
           std::string(example.lines) + "\n    return y.sin(), z.sin()\n");
  return m;
}

Method methodOf(const Module& module) {
  Method method;
  method.name = "forward";
  method.graph = inlinedCopy(module, "forward", {});
  return method;
}

struct Trained {
  std::vector<at::Tensor> outputs, gradients;
};

Trained train(Graph& graph, const Module& module) {
  std::vector<at::Tensor> leaves = {
      randomDouble({3, 4, 6}, 6).set_requires_grad(true),
      randomDouble({3, 4, 6}, 7).set_requires_grad(true)};
  Stack stack{module._ivalue(), leaves[0], leaves[1]};
  for (const at::Tensor& p : module.parameters())
    leaves.push_back(p);
  Code code(graph.copy(), "rule");
  InterpreterState(code).run(stack);
  Trained result;
  std::vector<at::Tensor> seeds;
  for (const IValue& element : stack[0].toTupleRef().elements()) {
    const at::Tensor t = element.toTensor();
    result.outputs.push_back(t);
    seeds.push_back(at::arange(t.numel(), t.options()).cos().reshape_as(t));
  }
  result.gradients = torch::autograd::grad(result.outputs, leaves, seeds, false,
                                           false, /*allow_unused=*/true);
  return result;
}

class RuleTable : public ::testing::TestWithParam<Example> {};

TEST_P(RuleTable, TrainsAsBeforeWithTheOperatorUndone) {
  const Module plain = moduleOf(GetParam());
  Method original = methodOf(plain);
  Model model;
  model.module = moduleOf(GetParam());
  model.methods.push_back(methodOf(model.module));
  Options options;
  options.forceSteps = options.saturating = true;
  Remarks remarks;
  PipelineOptions pipeline;
  pipeline.verifyEach = true;
  pipeline.passes = {findPass("canonicalize")};
  runPipeline(model, options, pipeline, remarks);
  {
    const Dataflow flow(*model.methods[0].graph, nullptr,
                        model.module._ivalue());
    const Invertibility found =
        findInvertibility({flow, options, model.module._ivalue()});
    std::set<std::string> rules;
    for (const Derivation& d : found.derivations)
      rules.insert(d.rule);
    EXPECT_TRUE(rules.count(GetParam().rule))
        << ::testing::PrintToString(rules);
    EXPECT_TRUE(rules.count("sum")) << "the chain behind it is not reached";
  }
  pipeline.passes = {findPass("split-streams"), findPass("form-steps")};
  runPipeline(model, options, pipeline, remarks);
  EXPECT_FALSE(model.methods[0].steps.empty());
  const Trained a = train(*original.graph, plain);
  resetStats();
  const Trained b = train(*model.methods[0].graph, model.module);
  EXPECT_EQ(stats().kept, 0) << "a step kept what it was to undo";
  EXPECT_GT(stats().inverses, 0);
  for (size_t i = 0; i < a.outputs.size(); ++i)
    EXPECT_TRUE(at::equal(a.outputs[i], b.outputs[i])) << "output " << i;
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    ASSERT_EQ(a.gradients[i].defined(), b.gradients.at(i).defined()) << i;
    if (a.gradients[i].defined()) {
      EXPECT_TRUE(at::allclose(a.gradients[i], b.gradients[i], 1e-9, 1e-11))
          << "gradient " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RuleTable, ::testing::ValuesIn(kExamples));

TEST(RuleTable, EveryFamilyHasAnExample) {
  std::set<std::string> shown;
  for (const Example& example : kExamples)
    shown.insert(example.family);
  for (const RuleFamily& family : allRules())
    EXPECT_TRUE(shown.count(family.name)) << family.name;
  EXPECT_EQ(shown.size(), allRules().size());
}

} // namespace
} // namespace inv::opt::testing
