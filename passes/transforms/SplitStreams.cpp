// Cancels cat/chunk pairs, so that states flow from block to block as separate
// tensors.
//
// A reversible network is usually written with one tensor between its blocks:
// every block splits it, updates the halves, and concatenates them again. The
// concatenation is a copy that the next block takes apart at once, and it hides
// that the halves are the states of a chain. The pair becomes one operator that
// hands the halves on:
//
//   before                          after
//     %l1 = ListConstruct(%y1, %y2)   %l1 = ListConstruct(%y1, %y2)
//     %c = aten::cat(%l1, %1)         %l2 = inv::resplit(%l1, %1, "chunk",
//     %l2 = aten::chunk(%c, %2, %1)                      [%2], %1)
//     %a, %b = ListUnpack(%l2)        %a, %b = ListUnpack(%l2)
//     %f = aten::conv2d(%b, ...)      %f = aten::conv2d(%b, ...)
//     %g = aten::gelu(%b)             %p = inv::as_piece(%b, %1, %n, %m)
//                                     %g = aten::gelu(%p)
//
// Why it is sound. inv::resplit is defined as split(cat(parts)), whatever the
// sizes; where the pieces are the parts it returns these instead of copying.
// The values are the same, the strides are not: the pieces of a concatenation
// are views with gaps. ATen rounds some functions differently then, so a reader
// that is not known to be insensitive (LayoutSensitivity.h) reads the piece
// through inv::as_piece, which puts it into the strides and at the offset that
// it had: one copy, shared by all such readers of the piece. %n is the sum of
// the sizes of the pieces before it, %m that of all. With --layout=fast the
// readers read the piece itself.
//
// What is cancelled: chunk, split, split_with_sizes and tensor_split of a cat,
// each in the same block, with as many pieces as parts. (Whether the sizes fit,
// only the run knows; `dim` may be counted from either end.) Other readers of
// the concatenation keep it.
//
// Left alone: a different number of pieces than parts; a list that is changed
// after it was made; parts or pieces that something writes in place, since the
// parts themselves are handed on; pieces that are read by index.
#include "passes/Passes.h"

#include "inv/Abi.h"
#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Symbols.h"
#include "passes/transforms/LayoutSensitivity.h"
#include "passes/transforms/LowerLists.h"

#include <algorithm>
#include <string>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A split of a concatenation, found and not yet changed.
struct Pair {
  Node* cat;    ///< aten::cat(parts, dim)
  Node* split;  ///< aten::chunk(cat, ..., dim) and the like
  Node* unpack; ///< the only reader of the split
  std::string how;
};

/// The name that inv::resplit knows the split by; empty if it knows none.
std::string howOf(const Node* split) {
  const bool isList =
      split->input(1)->type()->kind() == c10::TypeKind::ListType;
  const std::string name = split->kind().toUnqualString();
  if (name == "chunk")
    return "chunk";
  if (name == "split_with_sizes" || (name == "split" && isList))
    return "split_with_sizes";
  if (name == "split")
    return "split";
  if (name == "tensor_split")
    return isList ? "tensor_split" : inv::abi::kTensorSplitSections;
  return "";
}

std::optional<Pair> matchPair(Node* split, const StorageGroups& groups) {
  if (!isSplit(split) || split->input(0)->node()->kind() != aten::cat)
    return std::nullopt;
  Node* cat = split->input(0)->node();
  const auto& uses = split->output()->uses();
  if (cat->owningBlock() != split->owningBlock() || uses.size() != 1 ||
      uses[0].user->kind() != prim::ListUnpack ||
      uses[0].user->owningBlock() != split->owningBlock())
    return std::nullopt;
  Value* parts = cat->input(0);
  if (parts->node()->kind() != prim::ListConstruct || !isOnlyRead(parts))
    return std::nullopt;
  Pair pair{cat, split, uses[0].user, howOf(split)};
  if (pair.how.empty() ||
      parts->node()->inputs().size() != pair.unpack->outputs().size())
    return std::nullopt;
  // tensor_split by a tensor of indices.
  const auto argument = split->input(1)->type()->kind();
  if (argument != c10::TypeKind::IntType && argument != c10::TypeKind::ListType)
    return std::nullopt;
  const auto isWritten = [&](Value* value) { return groups.isWritten(value); };
  const auto inputs = parts->node()->inputs();
  const auto outputs = pair.unpack->outputs();
  if (std::any_of(inputs.begin(), inputs.end(), isWritten) ||
      std::any_of(outputs.begin(), outputs.end(), isWritten))
    return std::nullopt;
  return pair;
}

/// size(v, dim), placed at the insert point.
Value* sizeOf(Node* like, Value* value, Value* dim) {
  Node* size = createLike(like, aten::size, {value, dim});
  size->output()->setType(c10::IntType::get());
  return like->owningGraph()->insertNode(size)->output();
}

Value* sumOf(Node* like, Value* a, Value* b) {
  Node* sum = createLike(like, aten::add, {a, b});
  sum->output()->setType(c10::IntType::get());
  return like->owningGraph()->insertNode(sum)->output();
}

/// Gives the sensitive readers of the unpacked pieces the piece in its old
/// strides. REQUIRES: `unpack` takes a resplit apart along `dim`.
void restoreStrides(Node* unpack, Value* dim) {
  Graph* graph = unpack->owningGraph();
  std::vector<std::vector<Use>> readers;
  bool any = false;
  for (Value* piece : unpack->outputs()) {
    readers.emplace_back();
    for (const Use& use : piece->uses())
      if (isSensitiveUse(use))
        readers.back().push_back(use);
    any |= !readers.back().empty();
  }
  if (!any)
    return;
  WithInsertPoint guard(unpack->next());
  std::vector<Value*> offsets{graph->insertConstant(int64_t{0})};
  for (Value* piece : unpack->outputs()) {
    Value* size = sizeOf(unpack, piece, dim);
    offsets.push_back(
        offsets.size() == 1 ? size : sumOf(unpack, offsets.back(), size));
  }
  for (size_t i = 0; i < readers.size(); ++i) {
    if (readers[i].empty())
      continue;
    Value* piece = unpack->output(i);
    Node* made = createLike(unpack, sym::asPiece(),
                            {piece, dim, offsets[i], offsets.back()});
    made->output()->setType(piece->type());
    graph->insertNode(made);
    for (const Use& use : readers[i])
      use.user->replaceInput(use.offset, made->output());
  }
}

void cancel(const Pair& pair) {
  Graph* graph = pair.split->owningGraph();
  WithInsertPoint guard(pair.split);
  Value* args = pair.split->input(1);
  if (args->type()->kind() == c10::TypeKind::IntType)
    args = graph->insertNode(graph->createList(c10::IntType::get(), {args}))
               ->output();
  Value* how = graph->insertConstant(pair.how);
  Node* resplit = createLike(pair.split, sym::resplit(),
                             {pair.cat->input(0), pair.cat->input(1), how, args,
                              pair.split->input(2)});
  resplit->output()->setType(c10::ListType::ofTensors());
  graph->insertNode(resplit);
  pair.split->output()->replaceAllUsesWith(resplit->output());
}

} // namespace

bool splitStreams(PassContext& ctx) {
  Graph& graph = *ctx.method.graph;
  const StorageGroups groups(graph);
  std::vector<Pair> pairs;
  for (Node* node : allNodes(graph.block()))
    if (auto pair = matchPair(node, groups))
      pairs.push_back(*pair);
  if (pairs.empty())
    return false;
  for (const Pair& pair : pairs)
    cancel(pair);
  // Only now is every reader what it will be: the parts of a pair are often
  // the pieces of the one before.
  if (ctx.options.layout == Layout::Keep)
    for (const Pair& pair : pairs)
      restoreStrides(pair.unpack, pair.split->input(2));
  removeDeadNodes(graph);
  return true;
}

} // namespace inv::opt
