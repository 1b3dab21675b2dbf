// Part of canonicalize. Tuples and lists that ifs and loops hand on.
//
//   %s = prim::Loop(%n, %true, %t)            %a, %b = prim::Loop(%n, %true,
//     block0(%i, %c):                             %t0, %t1)
//       %p, %q = prim::TupleUnpack(%c)          block0(%i, %p, %q):
//       ...                                ==>    ...
//       %d = prim::TupleConstruct(%p2, %q2)       -> (%true, %p2, %q2)
//       -> (%true, %d)                          %s = TupleConstruct(%a, %b)
//
// What flows through the loop are then its states, each by itself.
//
// Why it is sound. A tuple is what its elements are. A list is replaced only
// where each of its sources is a literal of the same length that nobody writes
// or hands on, so that nobody can tell the new list from the old one.
#include "passes/transforms/FlattenResults.h"

#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Values = std::vector<Value*>;

/// A literal that nobody but the end of its block gets hold of.
bool isPrivateLiteral(const Value* list, const Node* reader) {
  if (list->node()->kind() != prim::ListConstruct)
    return false;
  const auto isRead = [&](const Use& use) {
    const auto* schema = use.user->maybeSchema();
    return use.user == reader || use.user->kind() == prim::ListUnpack ||
           (schema && use.offset < schema->arguments().size() &&
            !schema->arguments()[use.offset].alias_info());
  };
  const auto& uses = list->uses();
  return std::all_of(uses.begin(), uses.end(), isRead) &&
         std::count_if(uses.begin(), uses.end(),
                       [&](const Use& use) { return use.user == reader; }) == 1;
}

/// An if or a loop with one result of interest.
class Result {
public:
  Result(Node* node, size_t index) : node_(node), index_(index) {}

  /// Types of the elements; empty where the result is to stay as it is.
  std::vector<c10::TypePtr> elementTypes() const {
    const auto& type = node_->output(index_)->type();
    if (auto tuple = type->cast<c10::TupleType>())
      return tuple->elements().vec();
    auto list = type->cast<c10::ListType>();
    if (!list)
      return {};
    std::optional<size_t> length;
    const auto fits = [&](const Value* source, const Node* reader) {
      const size_t count = source->node()->inputs().size();
      if (!isPrivateLiteral(source, reader) || count == 0 ||
          length.value_or(count) != count)
        return false;
      length = count;
      return true;
    };
    for (const Block* block : node_->blocks())
      if (!fits(block->outputs().at(index_ + isLoop()), block->return_node()))
        return {};
    const bool starts =
        !isLoop() || (fits(node_->input(index_ + 2), node_) &&
                      isOnlyRead(node_->blocks()[0]->inputs().at(index_ + 1)));
    if (!starts || !isOnlyRead(node_->output(index_)))
      return {};
    return std::vector<c10::TypePtr>(*length, list->getElementType());
  }

  /// REQUIRES: elementTypes() are `types`.
  void flatten(const std::vector<c10::TypePtr>& types) {
    types_ = types;
    if (isLoop()) {
      WithInsertPoint at(node_);
      for (Value* element : apart(node_->input(index_ + 2)))
        node_->addInput(element);
      Block* body = node_->blocks().at(0);
      Values inner = add([&] { return body->addInput(); });
      WithInsertPoint top(*body->nodes().begin());
      replace(body->inputs().at(index_ + 1), inner);
    }
    for (Block* block : node_->blocks()) {
      WithInsertPoint at(block->return_node());
      for (Value* element : apart(block->outputs().at(index_ + isLoop())))
        block->registerOutput(element);
      block->eraseOutput(index_ + isLoop());
    }
    if (isLoop()) {
      node_->blocks().at(0)->eraseInput(index_ + 1);
      node_->removeInput(index_ + 2);
    }
    Values outer = add([&] { return node_->addOutput(); });
    WithInsertPoint behind(node_->next());
    replace(node_->output(index_), outer);
    node_->eraseOutput(index_);
  }

private:
  bool isLoop() const { return node_->kind() == prim::Loop; }

  template <class AddOne> Values add(AddOne addOne) const {
    Values out;
    for (const c10::TypePtr& type : types_) {
      out.push_back(addOne());
      out.back()->setType(type);
    }
    return out;
  }

  /// The elements, at the insert point.
  static Values apart(Value* whole) {
    Node* maker = whole->node();
    if (maker->kind() == prim::TupleConstruct ||
        maker->kind() == prim::ListConstruct)
      return maker->inputs().vec();
    Graph* graph = whole->owningGraph();
    Node* unpack = graph->insertNode(graph->createTupleUnpack(whole));
    return unpack->outputs().vec();
  }

  /// Who reads `whole` reads it put together, at the insert point.
  void replace(Value* whole, const Values& elements) const {
    Graph* graph = whole->owningGraph();
    auto tuple = whole->type()->cast<c10::TupleType>();
    Node* made =
        tuple ? graph->createTuple(elements, tuple->name() ? tuple : nullptr)
              : graph->create(prim::ListConstruct, elements);
    made->output()->setType(whole->type());
    made->copyMetadata(node_);
    graph->insertNode(made);
    whole->replaceAllUsesWith(made->output());
  }

  Node* node_;
  size_t index_;
  std::vector<c10::TypePtr> types_;
};

} // namespace

bool flattenResults(Graph& graph) {
  bool changed = false;
  for (Node* n : allNodes(graph.block())) {
    if (n->kind() != prim::If && n->kind() != prim::Loop)
      continue;
    // Tuples of tuples: what is new stands at the end.
    for (size_t i = 0; i < n->outputs().size();) {
      Result result(n, i);
      const auto types = result.elementTypes();
      if (types.empty()) {
        ++i;
        continue;
      }
      result.flatten(types);
      changed = true;
    }
  }
  return changed;
}

} // namespace inv::opt
