#include "passes/support/Remarks.h"

#include "passes/support/CallStack.h"

#include <sstream>

#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// A node whose source range is line `line` of `file`, with `text` there.
Node* nodeAt(Graph& graph, const std::string& file, size_t line,
             const std::string& text = "y = relu(x)") {
  Node* node = graph.insertNode(graph.create(aten::relu, {graph.addInput()}));
  auto source = std::make_shared<Source>(text, file, line);
  node->setSourceRange(SourceRange(source, 4, 5));
  return node;
}

InlinedCallStackPtr calledFrom(const std::string& file, size_t line,
                               const std::string& instance) {
  auto source = std::make_shared<Source>("z = self.f(x)", file, line);
  return pushCall({}, nullptr, SourceRange(source, 4, 5), instance);
}

TEST(SourceOf, InnermostLineOfTheModel) {
  Graph graph;
  Node* node = nodeAt(graph, "/home/me/net.py", 41);
  node->setCallStack(calledFrom("/home/me/outer.py", 7, "blocks.3"));
  EXPECT_EQ(sourceOf(node), "net.py:41:4");
  EXPECT_EQ(modulePathOf(node), "blocks.3");
}

TEST(SourceOf, LinesOfTheLibraryAreSkipped) {
  Graph graph;
  Node* node = nodeAt(
      graph, "/usr/lib/python3/dist-packages/torch/nn/functional.py", 1700);
  node->setCallStack(calledFrom("/home/me/net.py", 7, "fc"));
  EXPECT_EQ(sourceOf(node), "net.py:7:4");
}

TEST(SourceOf, OnlyLinesOfTheLibrary) {
  Graph graph;
  Node* node = nodeAt(graph, "torch/nn/functional.py", 1700);
  EXPECT_EQ(sourceOf(node), "functional.py:1700:4");
}

TEST(SourceOf, TracedStack) {
  Graph graph;
  Node* node = nodeAt(graph, "/x/site-packages/torch/nn/modules/linear.py", 125,
                      "/x/site-packages/torch/nn/modules/linear.py(125): f\n"
                      "/home/me/net.py(41): forward\n"
                      "/home/me/train.py(9): <module>\n");
  EXPECT_EQ(sourceOf(node), "net.py:41:0");
}

TEST(SourceOf, UnknownIsEmpty) {
  Graph graph;
  Node* node = graph.insertNode(graph.create(aten::relu, {graph.addInput()}));
  EXPECT_EQ(sourceOf(node), "");
  EXPECT_EQ(modulePathOf(node), "");
}

TEST(Remarks, RepeatsAreDropped) {
  Graph graph;
  Node* node = nodeAt(graph, "net.py", 1);
  Remarks remarks;
  remarks.missed(node, Reason::ResidualInput);
  remarks.missed(node, Reason::ResidualInput);
  remarks.missed(node, Reason::ResidualInput, "other");
  EXPECT_EQ(remarks.all().size(), 2U);
}

TEST(Remarks, ForPeople) {
  Graph graph;
  Remarks remarks;
  remarks.setMethod("forward");
  remarks.missed(nodeAt(graph, "net.py", 1), Reason::NoProfit, "3 nodes");
  std::ostringstream out;
  printRemark(out, remarks.all().at(0));
  EXPECT_NE(out.str().find("net.py:1:4: missed: "), std::string::npos);
  EXPECT_NE(out.str().find(" (3 nodes) [no-profit]\n"), std::string::npos);
  EXPECT_NE(out.str().find("  try: "), std::string::npos);
}

} // namespace
} // namespace inv::opt
