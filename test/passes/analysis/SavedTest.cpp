// The table of what derivatives keep (Saved.cpp), against what autograd really
// keeps: an operator runs, its result is dropped and only its backward node is
// held, and the tensors that are still alive are those that the node saved.
#include "passes/analysis/Dataflow.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <map>
#include <ostream>
#include <set>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// One operator on x, y: [2, 4, 6, 6]; m: [6, 6]; v: [6]; c: [4]; k: [4, 4, 1,
/// 1]; all positive and with gradients.
const char* const kOperators[] = {
    "x + y",
    "x - y",
    "torch.rsub(x, y)",
    "-x",
    "x * y",
    "x / y",
    "x * 2.0",
    "x / 2.0",
    "torch.matmul(x, m)",
    "torch.mm(m, m.detach())",
    "torch.addmm(v, m, m.detach())",
    "torch.linear(x, m)",
    "torch.linear(x, m, v)",
    "torch.conv2d(x, k)",
    "torch.conv2d(x, k, c)",
    "torch.batch_norm(x, c, c.detach(), None, None, True, 0.1, 1e-5, False)",
    "torch.layer_norm(x, [6], v, v.detach())",
    "torch.group_norm(x, 2, c, c.detach())",
    "torch.relu(x)",
    "torch.leaky_relu(x, 0.2)",
    "torch.elu(x)",
    "torch.selu(x)",
    "torch.celu(x)",
    "torch.gelu(x)",
    "torch.silu(x)",
    "torch.mish(x)",
    "torch.sigmoid(x)",
    "torch.tanh(x)",
    "torch.exp(x)",
    "torch.expm1(x)",
    "torch.log(x)",
    "torch.log1p(x)",
    "torch.sqrt(x)",
    "torch.rsqrt(x)",
    "torch.reciprocal(x)",
    "torch.square(x)",
    "torch.abs(x)",
    "torch.sin(x)",
    "torch.cos(x)",
    "torch.atan(x)",
    "torch.sinh(x)",
    "torch.cosh(x)",
    "torch.asinh(x)",
    "torch.erf(x)",
    "torch.softplus(x)",
    "torch.hardtanh(x)",
    "torch.clamp(x, 0.1, 0.5)",
    "torch.softmax(x, 1)",
    "torch.log_softmax(x, 1)",
    "torch.pow(x, 3)",
    "torch.pow(x, y)",
    "torch.sum(x)",
    "torch.mean(x, [2])",
    "torch.cat([x, y], 1)",
    "torch.stack([x, y], 1)",
    "x.reshape(2, 144)",
    "x.permute(0, 2, 3, 1)",
    "x.transpose(0, 1)",
    "x[:, 1:3]",
    "x.flip([1])",
    "x.roll([1], [1])",
    "x.clone()",
    "torch.constant_pad_nd(x, [1, 1])",
    "torch.pixel_shuffle(x, 2)",
    "torch.max_pool2d(x, [2, 2])",
    "torch.avg_pool2d(x, [2, 2])",
    "torch.adaptive_avg_pool2d(x, [3, 3])",
    "torch.cumsum(x, 1)",
};

class SavedTable : public ::testing::TestWithParam<const char*> {};

TEST_P(SavedTable, IsWhatAutogradKeeps) {
  Module module("Saved");
  module.define(
      std::string("def forward(self, x, y, m, v, c, k):\n    return ") +
      GetParam() + "\n");
  auto graph = module.get_method("forward").graph();
  Node* node = graph->outputs().at(0)->node();
  const Dataflow flow(*graph);
  const NodeInfo& info = flow.node(flow.idOf(node));
  EXPECT_TRUE(info.savedKnown) << node->kind().toQualString();
  std::set<const Value*> claimed;
  for (ValueId v : info.saved)
    claimed.insert(flow.value(v).value);

  const std::vector<std::vector<int64_t>> sizes = {
      {2, 4, 6, 6}, {2, 4, 6, 6}, {6, 6}, {6}, {4}, {4, 4, 1, 1}};
  std::vector<at::Tensor> inputs;
  Stack stack{module._ivalue()};
  for (const auto& size : sizes) {
    // Not a leaf, so that it is kept like an activation.
    inputs.push_back(
        at::rand(size, at::kDouble).add(0.1).set_requires_grad(true).clone());
    stack.emplace_back(inputs.back());
  }
  module.get_method("forward").function().run(stack);
  at::Tensor result = stack.back().toTensor();
  stack.clear();
  auto output = c10::weak_intrusive_ptr<c10::StorageImpl>(
      result.storage().getWeakStorageImpl());
  const bool isView =
      std::any_of(inputs.begin(), inputs.end(), [&](const at::Tensor& t) {
        return t.storage().is_alias_of(result.storage());
      });
  auto backward = result.grad_fn();
  ASSERT_TRUE(backward);
  result.reset();
  // x and y only: what is kept of weights costs nothing.
  for (size_t i = 0; i < 2; ++i)
    EXPECT_EQ(inputs[i].use_count() > 1 || inputs[i].storage().use_count() > 1,
              claimed.count(graph->inputs().at(i + 1)) != 0)
        << "input "
        << "xy"[i];
  if (!isView) {
    EXPECT_EQ(!output.expired(), claimed.count(node->output()) != 0)
        << "the result";
  }
}

INSTANTIATE_TEST_SUITE_P(Operators, SavedTable,
                         ::testing::ValuesIn(kOperators));

} // namespace
} // namespace inv::opt
