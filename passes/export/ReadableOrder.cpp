// LibTorch's printer writes one statement per node, in the order of the graph,
// except where a value has exactly one reader, no name, and stands in the order
// in which that reader's expression is evaluated: then it becomes a part of the
// expression. So for a graph that reads well, each attribute read, list and
// tuple goes right before its only reader, without a name, in the order of that
// reader's operands; an attribute with several readers (a module, mostly) goes
// before the first of them and keeps a name.
//
// An expression of 40 characters or more gets a statement of its own in any
// case, and so does what stands before it in the same call. So what is long in
// a step, the captures and the result, is named, and the captures come first.
//
// Why it is sound: the nodes that move are reads of attributes that nobody sets
// (setting one in the graph switches all of this off; writing into the tensor
// that an attribute holds does not change which tensor it is), and lists and
// tuples made of values, with one reader, so that nobody sees when they were
// made. Everything else keeps its order.
#include "passes/export/ReadableOrder.h"

#include "passes/support/GraphUtil.h"
#include "passes/support/Symbols.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <unordered_set>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The operands of a step, by position (Abi.h).
constexpr std::array kOperandNames = {"step", "states", "others", "captures",
                                      "extras"};

class Arranger {
public:
  explicit Arranger(Block* block) : block_(block) {}

  void run() {
    const std::vector<Node*> order(block_->nodes().begin(),
                                   block_->nodes().end());
    for (Node* node : order)
      if (isLazy(node))
        waiting_.insert(node);
    for (Node* node : order) {
      for (Block* inner : node->blocks())
        Arranger(inner).run();
      if (waiting_.count(node))
        continue;
      placeOperands(node, node);
    }
    placeOperands(block_->return_node(), block_->return_node());
    for (Node* node : order)
      if (waiting_.count(node) && !node->hasUses())
        node->moveBefore(block_->return_node());
  }

private:
  static bool isLazy(const Node* node) {
    if (node->kind() == prim::GetAttr)
      return true;
    return (node->kind() == prim::ListConstruct ||
            node->kind() == prim::TupleConstruct) &&
           node->output()->uses().size() == 1;
  }

  /// Puts what `node` (its blocks included) reads and what waits in this block
  /// before `before`: first what becomes a statement of its own, then the
  /// parts of expressions in the order of the operands.
  void placeOperands(Node* node, Node* before) {
    for (Value* input : node->inputs())
      placeStatements(input->node(), before);
    for (Value* input : node->inputs())
      place(input->node(), before);
    for (Block* inner : node->blocks()) {
      for (Node* nested : inner->nodes())
        placeOperands(nested, before);
      placeOperands(inner->return_node(), before);
    }
  }

  void placeStatements(Node* maker, Node* before) {
    if (!waiting_.count(maker))
      return;
    for (Value* input : maker->inputs())
      placeStatements(input->node(), before);
    if (!isExpression(maker->output()))
      place(maker, before);
  }

  void place(Node* maker, Node* before) {
    if (!waiting_.erase(maker))
      return;
    for (Value* input : maker->inputs())
      place(input->node(), before);
    maker->moveBefore(before);
    Value* made = maker->output();
    if (isExpression(made))
      made->setDebugName("");
    else if (maker->kind() == prim::GetAttr)
      made->setDebugName(attributeName(made));
    else
      made->setDebugName(kOperandNames.at(made->uses()[0].offset));
  }

  /// Whether the printer may write it where it is read.
  bool isExpression(const Value* made) const {
    if (made->uses().size() != 1)
      return false;
    const Use& use = made->uses()[0];
    return use.user->owningBlock() == block_ &&
           !(sym::isStep(use.user->kind()) && isLong(made));
  }

  static bool isLong(const Value* list) {
    return list->node()->kind() != prim::GetAttr &&
           list->node()->inputs().size() > 2;
  }

  Block* block_;
  std::unordered_set<Node*> waiting_;
};

/// "x" of "x.5", and "x1_" of "x1.5", since the printer drops the point.
std::string stem(const std::string& name) {
  std::string out = name.substr(0, name.find('.'));
  if (!out.empty() && std::isdigit(static_cast<unsigned char>(out.back())))
    out += '_';
  return out;
}

/// A step's results are named after its states and terminals.
void nameResults(Node* unpack) {
  const Node* step = unpack->input()->node();
  if (step->kind() == sym::resplit())
    unpack->input()->setDebugName("pieces");
  if (!sym::isStep(step->kind()))
    return;
  unpack->input()->setDebugName("results");
  std::vector<const Value*> sources;
  const size_t lists = step->kind() == sym::coupling() ? 2 : 1;
  for (size_t list = 1; list <= lists; ++list)
    if (step->input(list)->node()->kind() == prim::ListConstruct)
      for (const Value* source : step->input(list)->node()->inputs())
        sources.push_back(source);
  for (size_t i = 0; i < unpack->outputs().size(); ++i) {
    Value* result = unpack->output(i);
    if (result->hasDebugName())
      continue;
    result->setDebugName(i < sources.size() && sources[i]->hasDebugName()
                             ? stem(sources[i]->debugName())
                             : "y");
  }
}

} // namespace

void arrangeForReading(Graph& graph) {
  const std::vector<Node*> nodes = allNodes(graph.block());
  if (std::any_of(nodes.begin(), nodes.end(), [](const Node* node) {
        return node->kind() == prim::SetAttr;
      }))
    return;
  for (Node* node : nodes)
    if (node->kind() == prim::ListUnpack)
      nameResults(node);
  Arranger(graph.block()).run();
}

} // namespace inv::opt
