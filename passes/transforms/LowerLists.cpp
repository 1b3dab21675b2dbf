// Tuples and lists that are taken apart again.
//
// A tuple or list that is built and then indexed or unpacked in the same graph
// only hides which value flows where; the readers are given the values:
//
//   %t = prim::TupleConstruct(%a, %b)
//   %x, %y = prim::TupleUnpack(%t)   ==>   x is a, y is b
//
// The pieces of a split come to light as the outputs of one ListUnpack:
//
//   %l = aten::chunk(%x, %2, %d)
//   %a = aten::__getitem__(%l, %0)
//   %b = aten::__getitem__(%l, %1)   ==>   %a, %b = prim::ListUnpack(%l)
//
// So do those of lists that are put together from such (a + b, a[1:], list(a)).
//
// Why it is sound. A list of tensors is replaced only if no reader can write it
// (append, __setitem__, or handing it on). ListUnpack throws unless the list
// has exactly as many elements as outputs, while indexing does not, so a split
// is unpacked only where both fail together:
//   - split_with_sizes and tensor_split give a number of pieces that the
//     operands fix; an index is then brought into 0..n-1;
//   - chunk(x, n) gives n pieces or fewer (chunk of 5 elements into 4 gives 3).
//     It is unpacked if piece n-1 is among those that are read with constant,
//     non-negative indices: reading that piece throws exactly when there are
//     fewer than n, as ListUnpack does;
//   - split(x, size) gives a number of pieces that only the run knows: left.
// Graph inputs and outputs keep their types: a tuple that is returned stays.
#include "passes/transforms/LowerLists.h"

#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <torch/csrc/jit/ir/constants.h>

namespace inv::opt {

using namespace torch::jit;

bool isSplit(const Node* node) {
  static const std::set<c10::Symbol> kinds = {
      aten::chunk, aten::split, aten::split_with_sizes,
      c10::Symbol::fromQualString("aten::tensor_split")};
  return kinds.count(node->kind()) && node->outputs().size() == 1 &&
         node->inputs().size() == 3;
}

std::optional<int64_t> fixedPieceCount(Node* split) {
  Value* how = split->input(1);
  const bool isList = how->type()->kind() == c10::TypeKind::ListType;
  if (isList) {
    auto sizes = constantInts(how);
    int64_t count = -1;
    if (sizes)
      count = static_cast<int64_t>(sizes->size());
    else if (how->node()->kind() == prim::ListConstruct && isOnlyRead(how))
      count = static_cast<int64_t>(how->node()->inputs().size());
    if (count < 0)
      return std::nullopt;
    return split->kind() == aten::split_with_sizes ||
                   split->kind() == aten::split
               ? count
               : count + 1;
  }
  if (split->kind() == c10::Symbol::fromQualString("aten::tensor_split") &&
      how->type()->kind() == c10::TypeKind::IntType)
    return constantInt(how);
  return std::nullopt;
}

/// x = TupleIndex/TupleUnpack(TupleConstruct(...)).
static bool lowerTuple(Node* node) {
  if (node->kind() != prim::TupleUnpack && node->kind() != prim::TupleIndex)
    return false;
  Node* made = node->input(0)->node();
  if (made->kind() != prim::TupleConstruct)
    return false;
  if (node->kind() == prim::TupleUnpack) {
    if (node->outputs().size() != made->inputs().size())
      return false;
    for (size_t i = 0; i < node->outputs().size(); ++i)
      replaceValue(node->output(i), made->input(i));
    return true;
  }
  auto index = constantInt(node->input(1));
  const auto count = static_cast<int64_t>(made->inputs().size());
  if (!index || *index < -count || *index >= count)
    return false;
  replaceValue(node->output(), made->input(*index + (*index < 0 ? count : 0)));
  return true;
}

/// x = ListUnpack/__getitem__(ListConstruct(...)).
static bool lowerListOfValues(Node* node) {
  const bool unpack = node->kind() == prim::ListUnpack;
  if (!unpack && node->kind() != aten::__getitem__)
    return false;
  Node* made = node->input(0)->node();
  if (made->kind() != prim::ListConstruct || !isOnlyRead(node->input(0)))
    return false;
  const auto count = static_cast<int64_t>(made->inputs().size());
  if (unpack) {
    if (static_cast<int64_t>(node->outputs().size()) != count)
      return false;
    for (int64_t i = 0; i < count; ++i)
      replaceValue(node->output(i), made->input(i));
    return true;
  }
  auto index = constantInt(node->input(1));
  if (!index || *index < -count || *index >= count)
    return false;
  replaceValue(node->output(), made->input(*index + (*index < 0 ? count : 0)));
  return true;
}

/// x = __getitem__(DictConstruct(...), key).
static bool lowerDictRead(Node* node) {
  if (node->kind() != aten::__getitem__ ||
      node->input(0)->node()->kind() != prim::DictConstruct ||
      !isOnlyRead(node->input(0)))
    return false;
  const auto key = toIValue(node->input(1));
  const auto pairs = node->input(0)->node()->inputs();
  Value* found = nullptr;
  for (size_t i = 0; key && i < pairs.size(); i += 2) {
    const auto other = toIValue(pairs[i]);
    if (!other)
      return false;
    if (*other == *key)
      found = pairs[i + 1]; // the last one counts
  }
  if (found)
    replaceValue(node->output(), found);
  return found != nullptr;
}

/// Indexing of a split's list becomes one ListUnpack behind the split.
static bool unpackPieces(Node* split) {
  if (!isSplit(split) || !isOnlyRead(split->output()))
    return false;
  auto fixed = fixedPieceCount(split);
  auto count = fixed;
  if (!count && split->kind() == aten::chunk)
    count = constantInt(split->input(1));
  if (!count || *count < 1)
    return false;
  std::vector<std::pair<Node*, int64_t>> reads;
  bool readsLast = false;
  for (const Use& use : split->output()->uses()) {
    if (use.user->kind() != aten::__getitem__)
      return false;
    auto index = constantInt(use.user->input(1));
    if (!index)
      return false;
    if (fixed && *index < 0)
      *index += *count;
    if (*index < 0 || *index >= *count)
      return false;
    readsLast |= *index == *count - 1;
    reads.emplace_back(use.user, *index);
  }
  if (reads.empty() || (!fixed && !readsLast))
    return false;
  Node* unpack = createLike(split, prim::ListUnpack, {split->output()},
                            static_cast<size_t>(*count));
  for (Value* piece : unpack->outputs())
    piece->setType(c10::TensorType::get());
  unpack->insertAfter(split);
  for (auto& [read, index] : reads) {
    unpack->output(index)->setType(read->output()->type());
    replaceValue(read->output(), unpack->output(index));
    read->destroy();
  }
  return true;
}

static bool makesLiteral(Value* list) {
  return list->node()->kind() == prim::ListConstruct && isOnlyRead(list);
}

/// How many elements the list has whenever there is one.
static std::optional<int64_t> lengthOf(Value* list) {
  if (!isOnlyRead(list))
    return std::nullopt;
  if (list->node()->kind() == prim::ListConstruct)
    return static_cast<int64_t>(list->node()->inputs().size());
  if (isSplit(list->node()))
    return fixedPieceCount(list->node());
  return std::nullopt;
}

/// The elements that list[start:end:step] of a literal gives.
static std::optional<std::vector<Value*>> slicedElements(Node* slice) {
  if (slice->kind() != aten::slice || slice->inputs().size() != 4 ||
      !makesLiteral(slice->input(0)))
    return std::nullopt;
  const auto elements = slice->input(0)->node()->inputs();
  const auto count = static_cast<int64_t>(elements.size());
  const auto step = constantInt(slice->input(3));
  const auto bound = [&](size_t operand, int64_t open) {
    if (isNone(slice->input(operand)))
      return std::optional<int64_t>(open);
    auto at = constantInt(slice->input(operand));
    if (at)
      at = std::clamp<int64_t>(*at < 0 ? *at + count : *at, 0, count);
    return at;
  };
  const auto start = bound(1, 0), end = bound(2, count);
  if (!step || *step < 1 || !start || !end)
    return std::nullopt;
  std::vector<Value*> out;
  for (int64_t i = *start; i < *end; i += *step)
    out.push_back(elements[static_cast<size_t>(i)]);
  return out;
}

/// a + b, a[i:j] and list(a) of lists whose elements are known, and the length
/// of such a list.
static bool lowerLiteral(Node* node) {
  if (node->outputs().size() != 1)
    return false;
  WithInsertPoint at(node);
  Graph* graph = node->owningGraph();
  if (node->kind() == aten::len) {
    const auto length = lengthOf(node->input());
    if (length)
      node->output()->replaceAllUsesWith(graph->insertConstant(*length));
    return length && !node->output()->hasUses();
  }
  auto type = node->output()->type()->cast<c10::ListType>();
  if (!type)
    return false;
  std::optional<std::vector<Value*>> elements;
  if (node->kind() == aten::add && node->inputs().size() == 2 &&
      makesLiteral(node->input(0)) && makesLiteral(node->input(1))) {
    elements = node->input(0)->node()->inputs().vec();
    for (Value* v : node->input(1)->node()->inputs())
      elements->push_back(v);
  } else if (node->kind() == aten::list && makesLiteral(node->input(0))) {
    elements = node->input(0)->node()->inputs().vec();
  } else {
    elements = slicedElements(node);
  }
  if (!elements)
    return false;
  Node* made = createLike(node, prim::ListConstruct, *elements);
  made->output()->setType(type);
  made->insertBefore(node);
  replaceValue(node->output(), made->output());
  return true;
}

/// aten::size(x)[d] is aten::size(x, d).
static bool lowerSizeRead(Node* node) {
  if (node->kind() != aten::__getitem__)
    return false;
  Node* size = node->input(0)->node();
  if (size->kind() != aten::size || size->inputs().size() != 1 ||
      !isOnlyRead(size->output()) || !constantInt(node->input(1)))
    return false;
  Node* read = createLike(node, aten::size, {size->input(0), node->input(1)});
  read->output()->setType(c10::IntType::get());
  read->insertBefore(node);
  replaceValue(node->output(), read->output());
  return true;
}

/// prim::ConstantChunk is what LibTorch's own passes make of chunk and unpack.
static bool lowerConstantChunk(Node* node) {
  if (node->kind() != prim::ConstantChunk)
    return false;
  WithInsertPoint guard(node);
  Graph* graph = node->owningGraph();
  Value* chunks = graph->insertConstant(node->i(attr::chunks));
  Value* dim = graph->insertConstant(node->i(attr::dim));
  Node* chunk = createLike(node, aten::chunk, {node->input(), chunks, dim});
  chunk->output()->setType(c10::ListType::ofTensors());
  chunk->insertBefore(node);
  Node* unpack = createLike(node, prim::ListUnpack, {chunk->output()},
                            node->outputs().size());
  unpack->insertBefore(node);
  for (size_t i = 0; i < node->outputs().size(); ++i) {
    unpack->output(i)->setType(node->output(i)->type());
    replaceValue(node->output(i), unpack->output(i));
  }
  return true;
}

bool lowerLists(Graph& graph) {
  bool changed = false;
  for (Node* node : allNodes(graph.block())) {
    if (lowerTuple(node) || lowerListOfValues(node) || lowerSizeRead(node) ||
        lowerConstantChunk(node) || lowerLiteral(node) || lowerDictRead(node)) {
      changed = true;
    }
  }
  changed |= removeDeadNodes(graph);
  std::vector<Node*> splits;
  for (Node* node : allNodes(graph.block()))
    if (isSplit(node))
      splits.push_back(node);
  for (Node* split : splits)
    changed |= unpackPieces(split);
  return changed;
}

} // namespace inv::opt
