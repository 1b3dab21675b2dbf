// Part of form-steps. Views that a branch reads are made in the branch.
//
//   %t = aten::t(%b)                          %t = aten::t(%b)
//   %y = prim::If(%c)                         %y = prim::If(%c)
//     block0():                                 block0():
//       %s = aten::matmul(%b, %t)        ==>      %t0 = aten::t(%b)
//       ...                                       %s = aten::matmul(%b, %t0)
//
// A step in the branch that rebuilds %b can rebuild %t0 as well; %t it would
// have to hold. Likewise inv::as_piece. Not views of a part: the network in the
// branch may read just that.
//
// Why it is sound: a view gives the same wherever it stands, and of what
// something writes split-streams makes no as_piece.
#include "passes/transforms/SinkViews.h"

#include "passes/support/GraphUtil.h"
#include "passes/support/Symbols.h"

#include <string>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A view of all elements.
bool isWholeView(const Node* n) {
  static const std::unordered_set<std::string> names = {
      "view",      "view_as",    "reshape", "reshape_as", "permute", "t",
      "numpy_T",   "transpose",  "mT",      "movedim",    "alias",   "flatten",
      "unflatten", "contiguous", "squeeze", "unsqueeze"};
  return n->kind() == sym::asPiece() ||
         (n->kind().is_aten() && names.count(n->kind().toUnqualString()) != 0);
}

/// Into one block of an if.
class Sinker {
public:
  explicit Sinker(Block* block)
      : block_(block), around_(block->owningNode()->owningBlock()) {}

  bool run() {
    const std::vector<Node*> nodes = allNodes(block_);
    for (Node* n : nodes) {
      replaceIn(n);
      for (Block* inner : n->blocks())
        replaceIn(inner->return_node());
    }
    replaceIn(block_->return_node());
    return !copies_.empty();
  }

private:
  void replaceIn(Node* reader) {
    for (size_t i = 0; i < reader->inputs().size(); ++i)
      if (Value* copy = copyOf(reader->input(i)))
        reader->replaceInput(i, copy);
  }

  /// Null for what is no view from right around the if.
  Value* copyOf(Value* v) {
    Node* maker = v->node();
    if (maker->owningBlock() != around_ || maker->outputs().size() != 1 ||
        !isWholeView(maker) || !v->type()->isSubtypeOf(*c10::TensorType::get()))
      return nullptr;
    if (auto found = copies_.find(v); found != copies_.end())
      return found->second;
    Node* clone = block_->owningGraph()->createClone(maker, [&](Value* in) {
      Value* copy = copyOf(in);
      return copy ? copy : in;
    });
    clone->insertAfter(last_ ? last_ : block_->param_node());
    last_ = clone; // behind what it is a view of
    return copies_[v] = clone->output();
  }

  Block* block_;
  Block* around_;
  Node* last_ = nullptr;
  std::unordered_map<Value*, Value*> copies_;
};

} // namespace

bool sinkViews(Graph& graph) {
  bool changed = false;
  // Outer ones first: what was sunk into one goes on into those inside.
  for (Node* n : allNodes(graph.block()))
    if (n->kind() == prim::If)
      for (Block* block : n->blocks())
        changed |= Sinker(block).run();
  if (changed)
    removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
