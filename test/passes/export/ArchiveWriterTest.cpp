#include "passes/export/ArchiveWriter.h"

#include "passes/import/InlineCalls.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// A model whose forward was changed from relu to neg.
Model changedModel() {
  Module net("Net");
  net.define("def forward(self, x, n: int = 3):\n"
             "    return torch.relu(x) * n\n"
             "def twice(self, x):\n"
             "    return self.forward(self.forward(x))\n");
  Model model;
  model.module = net;
  Method method;
  method.name = "forward";
  method.graph = inlinedCopy(net, "forward", {});
  for (Node* node : method.graph->nodes())
    if (node->kind() == aten::relu) {
      WithInsertPoint guard(node);
      node->output()->replaceAllUsesWith(
          method.graph->insert(aten::neg, {node->input(0)}));
      node->destroy();
      break;
    }
  method.changed = true;
  model.methods.push_back(std::move(method));
  return model;
}

TEST(InstallMethods, TheModuleRunsTheChangedGraph) {
  Model model = changedModel();
  at::Tensor x = at::ones({2});
  installMethods(model);
  EXPECT_TRUE(at::equal(model.module.forward({x}).toTensor(), x * -3));
}

TEST(InstallMethods, DefaultsOfArgumentsStay) {
  Model model = changedModel();
  auto before = model.module.get_method("forward").function().getSchema();
  installMethods(model);
  EXPECT_EQ(model.module.get_method("forward").function().getSchema(), before);
}

TEST(InstallMethods, OtherMethodsCallTheNewOne) {
  Model model = changedModel();
  installMethods(model);
  at::Tensor x = at::ones({2});
  EXPECT_TRUE(
      at::equal(model.module.get_method("twice")({x}).toTensor(), x * 9));
}

TEST(InstallMethods, UnchangedMethodIsLeftAlone) {
  Model model = changedModel();
  model.methods[0].changed = false;
  installMethods(model);
  at::Tensor x = at::ones({2});
  EXPECT_TRUE(at::equal(model.module.forward({x}).toTensor(), x * 3));
}

} // namespace
} // namespace inv::opt
