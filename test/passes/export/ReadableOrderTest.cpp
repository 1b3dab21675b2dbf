#include "passes/export/ReadableOrder.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/ir/irparser.h>

#include <memory>
#include <string>
#include <vector>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// The kinds of the top-level nodes in order, GetAttr by the attribute's name.
std::vector<std::string> orderAfter(Graph& graph) {
  arrangeForReading(graph);
  graph.lint();
  std::vector<std::string> order;
  for (const Node* node : graph.nodes())
    order.push_back(node->kind() == prim::GetAttr
                        ? node->s(attr::name)
                        : node->kind().toUnqualString());
  return order;
}

std::shared_ptr<Graph> parsed(const std::string& text) {
  auto graph = std::make_shared<Graph>();
  parseIR(text, graph.get());
  return graph;
}

const Node* find(const Graph& graph, const std::string& attribute) {
  for (const Node* node : graph.nodes())
    if (node->kind() == prim::GetAttr && node->s(attr::name) == attribute)
      return node;
  return nullptr;
}

TEST(ReadableOrder, AnAttributeIsReadWhereItIsUsed) {
  auto graph = parsed(R"(
graph(%self, %x : Tensor):
  %v : Tensor = prim::GetAttr[name="v"](%self)
  %w : Tensor = prim::GetAttr[name="w"](%self)
  %y : Tensor = aten::relu(%x)
  %z : Tensor = aten::mul(%y, %w)
  %u : Tensor = aten::mul(%z, %v)
  return (%u))");
  EXPECT_EQ(orderAfter(*graph),
            (std::vector<std::string>{"relu", "w", "mul", "v", "mul"}));
  EXPECT_FALSE(find(*graph, "w")->output()->hasDebugName());
}

TEST(ReadableOrder, AnAttributeWithTwoReadersKeepsAName) {
  auto graph = parsed(R"(
graph(%self, %x : Tensor):
  %1 : Tensor = prim::GetAttr[name="w"](%self)
  %y : Tensor = aten::relu(%x)
  %z : Tensor = aten::mul(%y, %1)
  %u : Tensor = aten::mul(%z, %1)
  return (%u))");
  EXPECT_EQ(orderAfter(*graph),
            (std::vector<std::string>{"relu", "w", "mul", "mul"}));
  EXPECT_EQ(find(*graph, "w")->output()->debugName(), "w");
}

TEST(ReadableOrder, ANumberedModuleIsNamedAfterItsList) {
  auto graph = parsed(R"(
graph(%self, %x : Tensor):
  %1 = prim::GetAttr[name="blocks"](%self)
  %2 = prim::GetAttr[name="0"](%1)
  %w : Tensor = prim::GetAttr[name="w"](%2)
  %v : Tensor = prim::GetAttr[name="v"](%2)
  %y : Tensor = aten::mul(%x, %w)
  %z : Tensor = aten::mul(%y, %v)
  return (%z))");
  EXPECT_EQ(orderAfter(*graph),
            (std::vector<std::string>{"blocks", "0", "w", "mul", "v", "mul"}));
  EXPECT_EQ(find(*graph, "0")->output()->debugName(), "blocks_0");
}

TEST(ReadableOrder, OperandsStandInTheOrderOfTheirReader) {
  auto graph = parsed(R"(
graph(%self, %x : Tensor):
  %b : Tensor = prim::GetAttr[name="b"](%self)
  %a : Tensor = prim::GetAttr[name="a"](%self)
  %l : Tensor[] = prim::ListConstruct(%a, %b, %x)
  %d : int = prim::Constant[value=0]()
  %y : Tensor = aten::cat(%l, %d)
  return (%y))");
  EXPECT_EQ(
      orderAfter(*graph),
      (std::vector<std::string>{"Constant", "a", "b", "ListConstruct", "cat"}));
}

TEST(ReadableOrder, AReadForAnInnerBlockStaysOutside) {
  auto graph = parsed(R"(
graph(%self, %x : Tensor, %c : bool):
  %w : Tensor = prim::GetAttr[name="w"](%self)
  %r : Tensor = aten::relu(%x)
  %y : Tensor = prim::If(%c)
    block0():
      %m : Tensor = aten::mul(%r, %w)
      -> (%m)
    block1():
      -> (%r)
  return (%y))");
  EXPECT_EQ(orderAfter(*graph), (std::vector<std::string>{"relu", "w", "If"}));
}

TEST(ReadableOrder, AGraphThatSetsAttributesIsLeftAlone) {
  auto graph = parsed(R"(
graph(%self, %x : Tensor):
  %w : Tensor = prim::GetAttr[name="w"](%self)
  prim::SetAttr[name="w"](%self, %x)
  %y : Tensor = aten::mul(%x, %w)
  return (%y))");
  EXPECT_EQ(orderAfter(*graph),
            (std::vector<std::string>{"w", "SetAttr", "mul"}));
}

TEST(ReadableOrder, ResultsOfAStepAreNamedAfterItsStates) {
  auto graph = parsed(R"(
graph(%s, %x1 : Tensor, %x2.3 : Tensor):
  %n : NoneType = prim::Constant()
  %a : Tensor[] = prim::ListConstruct(%x1)
  %b : Tensor[] = prim::ListConstruct(%x2.3)
  %c : Tensor[] = prim::ListConstruct()
  %1 : Tensor[] = inv::coupling(%s, %a, %b, %c, %n)
  %2 : Tensor, %3 : Tensor = prim::ListUnpack(%1)
  return (%2, %3))");
  arrangeForReading(*graph);
  EXPECT_EQ(graph->outputs().at(0)->debugName(), "x1_");
  EXPECT_EQ(graph->outputs().at(1)->debugName(), "x2_");
}

} // namespace
} // namespace inv::opt
