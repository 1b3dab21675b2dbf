#include "passes/import/InlineCalls.h"

#include "passes/support/Error.h"
#include "passes/support/Remarks.h"

#include <set>

#include <gtest/gtest.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// `self.inner.neg(x)` two levels deep; neg exports an inverse where asked.
Module nested(bool annotated) {
  Module neg("Neg");
  neg.define("def forward(self, x):\n    return torch.neg(x)\n");
  if (annotated)
    neg.define("def inverse(self, y):\n    return torch.neg(y)\n");
  Module inner("Inner");
  inner.register_module("neg", neg);
  inner.define("def forward(self, x):\n"
               "    print(x)\n"
               "    return torch.relu(self.neg.forward(x))\n");
  Module net("Net");
  net.register_module("inner", inner);
  net.define("def forward(self, x):\n    return self.inner.forward(x)\n");
  return net;
}

const Node* find(const Graph& graph, Symbol kind) {
  for (const Node* node : graph.nodes())
    if (node->kind() == kind)
      return node;
  return nullptr;
}

TEST(InlineCalls, NodesKnowTheWholePathOfTheirModule) {
  auto graph = inlinedCopy(nested(false), "forward", {});
  EXPECT_EQ(find(*graph, prim::CallMethod), nullptr);
  ASSERT_NE(find(*graph, aten::neg), nullptr);
  EXPECT_EQ(modulePathOf(find(*graph, aten::neg)), "inner.neg");
  EXPECT_EQ(modulePathOf(find(*graph, aten::relu)), "inner");
}

TEST(InlineCalls, NodesWithoutOutputsKnowItToo) {
  auto graph = inlinedCopy(nested(false), "forward", {});
  ASSERT_NE(find(*graph, prim::Print), nullptr);
  EXPECT_EQ(modulePathOf(find(*graph, prim::Print)), "inner");
}

TEST(InlineCalls, AnnotatedModuleStaysACall) {
  auto graph = inlinedCopy(nested(true), "forward", {});
  const Node* call = find(*graph, prim::CallMethod);
  ASSERT_NE(call, nullptr);
  EXPECT_EQ(call->s(attr::name), "forward");
  EXPECT_EQ(modulePathOf(call), "inner.neg"); // the module that is called
  EXPECT_EQ(find(*graph, aten::neg), nullptr);
}

TEST(InlineCalls, NamedModuleStaysACall) {
  auto graph = inlinedCopy(nested(false), "forward", {"inner.neg"});
  EXPECT_NE(find(*graph, prim::CallMethod), nullptr);
  EXPECT_THROW(inlinedCopy(nested(false), "forward", {"neg"}), Error);
}

TEST(InlineCalls, TheModulesOwnGraphStaysAsItWas) {
  Module net = nested(false);
  std::string before = net.get_method("forward").graph()->toString();
  auto graph = inlinedCopy(net, "forward", {});
  graph->insertInput(1, "more");
  EXPECT_EQ(net.get_method("forward").graph()->toString(), before);
}

} // namespace
} // namespace inv::opt
