// Order of nodes within a block.
//
// The order of a graph is the order of the Python that made it: a half may be
// split off long before it is used, a log-determinant summed at the end, a size
// read from a value that nobody needs any more. What a value costs depends on
// how long it is alive, so nodes that cost nothing move up:
//   - constants to the top of their block;
//   - views, splits and their unpacking, sizes and integer expressions right
//     behind the operand that was defined last;
//   - side outputs (sums and means, and sums of these) likewise.
// All else keeps its order, and nodes that move behind the same operand keep
// theirs, so the result is a function of the graph, and a second run changes
// nothing.
//
// Why it is sound: only nodes without effect move, never random ones, and none
// that reads (or may share) storage that something in the graph writes, or a
// list of numbers that grows; for these the place makes no difference. Effects
// are never moved.
#include "passes/transforms/Schedule.h"

#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"
#include "passes/transforms/LowerLists.h"

#include <algorithm>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

bool isViewOperator(const Node* node) {
  static const std::set<std::string> names = {
      "view",      "reshape", "flatten", "unflatten", "permute",
      "transpose", "t",       "select",  "slice",     "narrow",
      "unsqueeze", "squeeze", "expand",  "expand_as", "view_as",
      "swapaxes",  "movedim", "detach",  "reshape_as"};
  return node->kind().is_aten() && names.count(node->kind().toUnqualString()) &&
         !node->inputs().empty() &&
         node->input(0)->type()->isSubtypeOf(*c10::TensorType::get());
}

namespace {

class Scheduler {
public:
  explicit Scheduler(Graph& graph) : graph_(graph), groups_(graph) {}

  bool run() {
    visit(graph_.block());
    return changed_;
  }

private:
  void visit(Block* block) {
    const std::vector<Node*> order(block->nodes().begin(),
                                   block->nodes().end());
    for (Node* node : order)
      for (Block* inner : node->blocks())
        visit(inner);
    Node* top = block->param_node();
    for (Node* node : order)
      if (node->kind() == prim::Constant) {
        place(node, top);
        top = node;
      }
    // What was put behind a node, directly: a tree, laid out in preorder.
    std::unordered_map<Node*, Node*> lastChild;
    for (Node* node : order) {
      if (!isMovable(node))
        continue;
      Node* operand = lastOperand(node);
      if (!operand)
        continue;
      Node* tail = operand;
      for (auto child = lastChild.find(tail); child != lastChild.end();
           child = lastChild.find(tail))
        tail = child->second;
      place(node, tail);
      lastChild[operand] = node;
    }
    changed_ |= !std::equal(order.begin(), order.end(), block->nodes().begin(),
                            block->nodes().end());
  }

  static void place(Node* node, Node* behind) {
    const bool isThere = behind->kind() == prim::Param
                             ? *node->owningBlock()->nodes().begin() == node
                             : node->prev() == behind;
    if (isThere)
      return;
    if (behind->kind() == prim::Param)
      node->moveBefore(*node->owningBlock()->nodes().begin());
    else
      node->moveAfter(behind);
  }

  /// The operand's node that comes last in the node's block; null where all
  /// operands come from outside of the block.
  static Node* lastOperand(Node* node) {
    Node* last = nullptr;
    for (Value* input : node->inputs()) {
      Node* made = input->node();
      if (made->owningBlock() != node->owningBlock() ||
          made->kind() == prim::Param)
        continue;
      if (!last || last->isBefore(made))
        last = made;
    }
    // Behind a constant means to the top: no shorter lives, so stay.
    return last && last->kind() != prim::Constant ? last : nullptr;
  }

  bool isMovable(Node* node) {
    if (!node->blocks().empty() || node->kind() == prim::Constant ||
        node->kind() == prim::GetAttr)
      return false;
    const bool isNumber = std::none_of(
        node->outputs().begin(), node->outputs().end(),
        [](const Value* out) { return mayHoldTensor(out->type()); });
    const bool isKnown = node->kind() == prim::ListConstruct ||
                         node->kind() == prim::ListUnpack ||
                         node->maybeSchema();
    if (!isKnown || node->outputs().empty() || node->hasSideEffects() ||
        node->isNondeterministic() || writesOperand(node))
      return false;
    if (!isNumber && !isViewOperator(node) && !isSplit(node) &&
        !isPieceUnpack(node) && !isSideOutput(node))
      return false;
    return std::none_of(
        node->inputs().begin(), node->inputs().end(), [&](Value* in) {
          return isNumberContainerInFlux(in) ||
                 (mayHoldTensor(in->type()) && groups_.isWritten(in));
        });
  }

  static bool isPieceUnpack(const Node* node) {
    return node->kind() == prim::ListUnpack && isSplit(node->input()->node());
  }

  bool isSideOutput(const Node* node) {
    const bool isReduction =
        node->kind() == aten::sum || node->kind() == aten::mean;
    const bool isSum = node->kind() == aten::add || node->kind() == aten::sub ||
                       node->kind() == aten::neg;
    const bool isSide =
        isReduction ||
        (isSum && std::all_of(node->inputs().begin(), node->inputs().end(),
                              [&](const Value* in) {
                                return !mayHoldTensor(in->type()) ||
                                       sides_.count(in);
                              }));
    if (isSide)
      sides_.insert(node->output());
    return isSide;
  }

  Graph& graph_;
  StorageGroups groups_;
  std::unordered_set<const Value*> sides_;
  bool changed_ = false;
};

} // namespace

bool schedule(Graph& graph) { return Scheduler(graph).run(); }

} // namespace inv::opt
