// Part of canonicalize. Lists and dictionaries that are written in place, as
// values.
//
//   %l = prim::ListConstruct()                %l = prim::ListConstruct()
//   prim::Loop(%n, %true)                     %r = prim::Loop(%n, %true, %l)
//     block0(%i):                               block0(%i, %c):
//       %y = ...                                  %y = ...
//       aten::append(%l, %y)                      %e = prim::ListConstruct(%y)
//                                                 %d = aten::add(%c, %e)
//       -> (%true)                                -> (%true, %d)
//   %x = aten::cat(%l, %dim)                  %x = aten::cat(%r, %dim)
//
// A write is an effect to the analysis: what lies around it can be neither run
// again nor undone, and nobody knows what the list holds. As values, a list
// comprehension inside of F is a loop like any other, and a list whose length
// is known is taken apart (LowerLists.cpp).
//
// Why it is sound. Only a container that the method makes itself, and that
// nobody else can get at, is looked at: every use of it is a known write
// (append, extend, +=, and assignment of an element where all elements are
// known), an operator that only reads it, or, behind the last write, a return
// or a place in another container. A write then makes a new container of the
// same elements, and what reads the old one at that point reads the new one.
// Ifs and loops hand it through as one more result.
//
// Left alone: containers that are handed on before the last write, insert, pop
// and the like, and writes whose place only the run knows.
#include "passes/transforms/ListValues.h"

#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include <torch/csrc/jit/ir/constants.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool isList(const Value* v) {
  return v->type()->kind() == c10::TypeKind::ListType;
}

bool isDict(const Value* v) {
  return v->type()->kind() == c10::TypeKind::DictType;
}

/// The operator gives a list or dictionary of its own.
bool makesContainer(const Node* n) {
  static const std::set<c10::Symbol> lists = {
      aten::add,    aten::slice,       aten::list,
      aten::chunk,  aten::split,       aten::split_with_sizes,
      aten::unbind, aten::tensor_split};
  if (n->kind() == prim::ListConstruct || n->kind() == prim::DictConstruct)
    return true;
  return n->outputs().size() == 1 && isList(n->output()) &&
         lists.count(n->kind()) != 0;
}

enum class Write { None, Append, Extend, SetItem };

Write writeOf(const Use& use) {
  static const Symbol extend = Symbol::fromQualString("aten::extend");
  if (use.offset != 0)
    return Write::None;
  const auto kind = use.user->kind();
  if (kind == aten::append)
    return Write::Append;
  if (kind == extend || (kind == aten::add_ && isList(use.user->input(0))))
    return Write::Extend;
  if (kind == aten::_set_item)
    return Write::SetItem;
  return Write::None;
}

bool onlyReads(const Use& use) {
  if (use.user->kind() == prim::ListUnpack)
    return true;
  const auto* schema = use.user->maybeSchema();
  if (!schema || use.offset >= schema->arguments().size())
    return false;
  const auto* alias = schema->arguments()[use.offset].alias_info();
  if (alias && alias->isWrite())
    return false;
  // A result that may be the container itself, or an iterator over it.
  return std::none_of(schema->returns().begin(), schema->returns().end(),
                      [&](const c10::Argument& result) {
                        const auto kind = result.type()->kind();
                        return (kind == c10::TypeKind::ListType ||
                                kind == c10::TypeKind::DictType) &&
                               result.alias_info() && alias;
                      });
}

/// A place in another container, or in what a block returns.
bool handsOn(const Use& use) {
  const auto kind = use.user->kind();
  const bool isElement =
      use.offset > 0 && (kind == aten::append || kind == aten::_set_item);
  return isElement || kind == prim::Return || kind == prim::ListConstruct ||
         kind == prim::TupleConstruct || kind == prim::DictConstruct;
}

/// One container and what is done with it.
class Container {
public:
  explicit Container(Value* made)
      : made_(made), home_(made->node()->owningBlock()) {}

  /// Whether every use is understood and some of them are writes.
  bool analyse() {
    if (!collectUses(made_) || writes_.empty())
      return false;
    for (Node* write : writes_) {
      for (Block* b = write->owningBlock(); b != home_;
           b = b->owningNode()->owningBlock()) {
        const auto kind = b->owningNode()->kind();
        if (kind != prim::If && kind != prim::Loop)
          return false;
        inside_.insert(b->owningNode());
      }
    }
    for (Node* write : writes_)
      if (writeOf({write, 0}) == Write::SetItem && !isKnownPlace(write))
        return false;
    return std::all_of(handedTo_.begin(), handedTo_.end(), [&](Node* user) {
      return user->owningBlock() == home_ &&
             std::all_of(writes_.begin(), writes_.end(), [&](Node* write) {
               return user == home_->return_node() ||
                      ancestorIn(write, home_)->isBefore(user);
             });
    });
  }

  /// REQUIRES: analyse().
  void rewrite() {
    // The result of a write is the container.
    for (Node* write : writes_)
      if (!write->outputs().empty())
        write->output()->replaceAllUsesWith(made_);
    process(home_, made_, made_->node()->next());
    for (Node* write : writes_)
      write->destroy();
  }

private:
  bool collectUses(Value* v) {
    for (const Use& use : v->uses()) {
      if (writeOf(use) != Write::None) {
        Node* write = use.user;
        // l.append(l), l += l: the operand is written as it is read.
        for (size_t i = 1; i < write->inputs().size(); ++i)
          if (write->input(i) == v)
            return false;
        writes_.push_back(write);
        if (!write->outputs().empty() && !collectUses(write->output()))
          return false;
      } else if (handsOn(use)) {
        handedTo_.push_back(use.user);
      } else if (!onlyReads(use)) {
        return false;
      }
    }
    return true;
  }

  /// An assignment whose effect on the elements is known: all of them are, and
  /// so is the index or key.
  bool isKnownPlace(Node* write) const {
    if (!inside_.empty())
      return false;
    Node* maker = made_->node();
    if (isDict(made_)) {
      bool known = maker->kind() == prim::DictConstruct &&
                   toIValue(write->input(1)).has_value();
      for (size_t i = 0; known && i < maker->inputs().size(); i += 2)
        known = toIValue(maker->input(i)).has_value();
      return known;
    }
    return indexOf(write).has_value();
  }

  /// The place of the list that an assignment sets, counted from its start,
  /// where that is known and there is such a place: the list only grows. (All
  /// its writes stand in one block.)
  std::optional<int64_t> indexOf(const Node* write) const {
    const auto index = constantInt(write->input(1));
    if (made_->node()->kind() != prim::ListConstruct || !index)
      return std::nullopt;
    auto count = static_cast<int64_t>(made_->node()->inputs().size());
    bool exact = true;
    for (const Node* other : writes_) {
      if (other == write || !other->isBefore(write))
        continue;
      const Write kind = writeOf({const_cast<Node*>(other), 0});
      if (kind == Write::Append) {
        ++count;
      } else if (kind == Write::Extend) {
        const Value* tail = other->input(1);
        const bool known =
            tail->node()->kind() == prim::ListConstruct && isOnlyRead(tail);
        exact &= known;
        count +=
            known ? static_cast<int64_t>(tail->node()->inputs().size()) : 0;
      }
    }
    if (*index < 0 && !exact)
      return std::nullopt;
    const int64_t at = *index < 0 ? *index + count : *index;
    return at >= 0 && at < count ? std::optional(at) : std::nullopt;
  }

  /// Reads of the container in `block`, from `from` on, read what it is there:
  /// `now`, and behind a write its result. Returns what it is at the end.
  Value* process(Block* block, Value* now, Node* from) {
    for (Node* n = from; n != block->return_node(); n = n->next()) {
      if (!n->inputs().empty() && n->input(0) == made_ &&
          writeOf({n, 0}) != Write::None) {
        now = written(n, now);
        continue;
      }
      readAt(n, now);
      if (inside_.count(n) != 0)
        now = handThrough(n, now);
      else
        for (Block* inner : n->blocks())
          process(inner, now, *inner->nodes().begin());
    }
    readAt(block->return_node(), now);
    return now;
  }

  void readAt(Node* n, Value* now) const {
    for (size_t i = 0; i < n->inputs().size(); ++i)
      if (n->input(i) == made_)
        n->replaceInput(i, now);
  }

  /// An if or a loop in which the container is written.
  Value* handThrough(Node* n, Value* now) {
    const bool isLoop = n->kind() == prim::Loop;
    if (isLoop)
      n->addInput(now);
    for (Block* inner : n->blocks()) {
      Value* start = now;
      if (isLoop) {
        start = inner->addInput();
        start->setType(made_->type());
      }
      Value* end = process(inner, start, *inner->nodes().begin());
      inner->registerOutput(end);
    }
    Value* out = n->addOutput();
    out->setType(made_->type());
    return out;
  }

  /// What the container is behind the write.
  Value* written(Node* write, Value* now) const {
    WithInsertPoint at(write);
    switch (writeOf({write, 0})) {
    case Write::Append:
      return insert(
          write, aten::add,
          {now, insert(write, prim::ListConstruct, {write->input(1)})});
    case Write::Extend:
      return insert(write, aten::add, {now, write->input(1)});
    default:
      return isList(made_) ? withElement(write, now) : withEntry(write, now);
    }
  }

  /// The list made anew with one element set. Of a list that has become longer:
  /// what lies before the element, the element, what lies behind.
  Value* withElement(Node* write, Value* now) const {
    const int64_t index = *indexOf(write);
    if (now->node()->kind() == prim::ListConstruct) {
      std::vector<Value*> elements = now->node()->inputs().vec();
      elements.at(size_t(index)) = write->input(2);
      return insert(write, prim::ListConstruct, elements);
    }
    const auto part = [&](int64_t start, int64_t end) {
      Graph* graph = write->owningGraph();
      Value* from = graph->insertConstant(start);
      Value* to = graph->insertConstant(end);
      Value* one = graph->insertConstant(int64_t{1});
      return insert(write, aten::slice, {now, from, to, one});
    };
    Value* before = part(0, index);
    Value* one = insert(write, prim::ListConstruct, {write->input(2)});
    Value* head = insert(write, aten::add, {before, one});
    return insert(write, aten::add, {head, part(index + 1, kOpenEnd)});
  }

  /// The dictionary made anew with one entry set.
  Value* withEntry(Node* write, Value* now) const {
    std::vector<Value*> pairs = now->node()->inputs().vec();
    const auto key = toIValue(write->input(1));
    for (size_t i = 0; i < pairs.size(); i += 2)
      if (auto other = toIValue(pairs[i]); other && *other == *key) {
        pairs[i + 1] = write->input(2);
        return insert(write, prim::DictConstruct, pairs);
      }
    pairs.push_back(write->input(1));
    pairs.push_back(write->input(2));
    return insert(write, prim::DictConstruct, pairs);
  }

  /// A container of the same type, made at the insert point.
  Value* insert(Node* write, c10::Symbol kind,
                at::ArrayRef<Value*> inputs) const {
    Graph* graph = write->owningGraph();
    Node* node = graph->insertNode(graph->create(kind, inputs));
    node->copyMetadata(write);
    node->output()->setType(made_->type());
    return node->output();
  }

  Value* made_;
  Block* home_;
  std::vector<Node*> writes_, handedTo_;
  std::set<Node*> inside_; ///< ifs and loops that hold a write
};

} // namespace

bool writesToValues(Graph& graph) {
  // Before any write is destroyed.
  std::vector<Value*> made;
  for (Node* n : allNodes(graph.block()))
    if (makesContainer(n))
      made.push_back(n->output());
  bool changed = false;
  for (Value* one : made) {
    Container container(one);
    if (!container.analyse())
      continue;
    container.rewrite();
    changed = true;
  }
  return changed;
}

} // namespace inv::opt
