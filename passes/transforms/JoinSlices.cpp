// Complementary slices as one split.
//
//   %a = aten::slice(%x, %1, %0, %c, %1)
//   %b = aten::slice(%x, %1, %c, %max, %1)
//                ==>
//   %at : int[] = prim::ListConstruct(%c)
//   %l : Tensor[] = aten::tensor_split(%x, %at, %1)
//   %a, %b = prim::ListUnpack(%l)
//
// Splits are what the analysis and split-streams look for; only the split says
// that the pieces cover the whole. tensor_split with indices is defined by
// these very slices (and is differentiated as these), whatever the sizes: the
// values, strides and gradients are the same.
//
// The pieces cover the value if each begins where the one before ended, at the
// same constant or the same integer value; the first begins at 0, the last is
// open (or ends at size(x, d)). With more than two pieces the bounds must be
// constants in ascending order. Strided slices (x[::2], x[1::2]), slices with
// gaps or overlaps, and slices in different blocks are left alone, and so are
// tensors that something writes behind the first slice: autograd refuses a
// write where several views were made by one operator.
#include "passes/transforms/JoinSlices.h"

#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A bound: a constant, or an integer value of the graph.
struct Bound {
  std::optional<int64_t> constant;
  Value* value = nullptr;

  bool operator==(const Bound& other) const {
    return constant || other.constant ? constant == other.constant
                                      : value == other.value;
  }
};

struct Slice {
  Node* node;
  Bound start, end;
};

using Slices = std::vector<Slice>;
/// The value that is sliced, and the dimension.
using Key = std::pair<Value*, int64_t>;

bool isZero(const Bound& bound) { return bound.constant == 0; }

bool isOpen(const Slice& slice, int64_t dim) {
  if (slice.end.constant)
    return *slice.end.constant == kOpenEnd;
  Node* node = slice.end.value->node();
  return node->kind() == aten::size && node->inputs().size() == 2 &&
         node->input(0) == slice.node->input(0) &&
         constantInt(node->input(1)) == dim;
}

/// Groups of slices of one value along one dimension, in program order.
std::vector<std::pair<Key, Slices>> collectSlices(Block* block) {
  std::vector<std::pair<Key, Slices>> groups;
  std::map<Key, size_t> index;
  for (Node* node : block->nodes()) {
    if (node->kind() != aten::slice || node->inputs().size() != 5 ||
        !node->input(0)->type()->isSubtypeOf(*c10::TensorType::get()) ||
        constantInt(node->input(4)).value_or(0) != 1)
      continue;
    auto dim = constantInt(node->input(1));
    if (!dim)
      continue;
    Slice slice{node, {}, {}};
    slice.start.value = node->input(2);
    slice.end.value = node->input(3);
    slice.start.constant =
        isNone(node->input(2)) ? 0 : constantInt(node->input(2));
    slice.end.constant =
        isNone(node->input(3)) ? kOpenEnd : constantInt(node->input(3));
    const Key key{node->input(0), *dim};
    auto [found, isNew] = index.try_emplace(key, groups.size());
    if (isNew)
      groups.push_back({key, {}});
    groups[found->second].second.push_back(slice);
  }
  return groups;
}

/// The slices in the order in which they cover the value; empty if they don't,
/// or if some slice is no part of the cover.
Slices coverOf(const Slices& slices, int64_t dim) {
  Slices cover;
  for (const Slice& slice : slices)
    if (isZero(slice.start) && !isOpen(slice, dim)) {
      cover.push_back(slice);
      break;
    }
  while (!cover.empty() && !isOpen(cover.back(), dim)) {
    if (cover.size() >= slices.size())
      return {};
    auto next =
        std::find_if(slices.begin(), slices.end(), [&](const Slice& slice) {
          return slice.start == cover.back().end;
        });
    if (next == slices.end())
      return {};
    cover.push_back(*next);
  }
  if (cover.size() > 2)
    for (size_t i = 0; i + 1 < cover.size(); ++i) {
      const auto& end = cover[i].end.constant;
      const auto& start = cover[i].start.constant;
      if (!end || !start || *start < 0 || *end < *start)
        return {};
    }
  return cover;
}

/// Where tensor_split can stand: behind all operands, before the first slice
/// of the cover that is in program order. Null where a bound is computed later.
Node* placeFor(const Slices& cover) {
  Node* first = cover.front().node;
  for (const Slice& slice : cover)
    if (slice.node->isBefore(first))
      first = slice.node;
  for (size_t i = 0; i + 1 < cover.size(); ++i) {
    Node* bound = cover[i].end.value->node();
    if (bound->owningBlock() == first->owningBlock() &&
        bound->kind() != prim::Param && !bound->isBefore(first))
      return nullptr;
  }
  return first;
}

/// Whether the value's storage may be written at `place` or later.
bool isWrittenFrom(Node* place, Value* value, const StorageGroups& groups) {
  if (!groups.isWritten(value))
    return false;
  Block* all = place->owningGraph()->block();
  Node* at = ancestorIn(place, all);
  for (Value* member : groups.members(value))
    for (const Use& use : member->uses()) {
      if (use.offset != 0 || !writesOperand(use.user))
        continue;
      Node* write = ancestorIn(use.user, all);
      if (!write || !write->isBefore(at))
        return true;
    }
  return false;
}

bool join(const Key& key, const Slices& slices, const StorageGroups& groups) {
  const Slices cover = coverOf(slices, key.second);
  if (cover.size() < 2)
    return false;
  Node* place = placeFor(cover);
  if (!place || isWrittenFrom(place, key.first, groups))
    return false;
  std::vector<Value*> bounds;
  for (size_t i = 0; i + 1 < cover.size(); ++i)
    bounds.push_back(cover[i].end.value);
  Graph* graph = place->owningGraph();
  Node* at =
      graph->createList(c10::IntType::get(), bounds)->insertBefore(place);
  at->setSourceRange(place->sourceRange());
  Node* split =
      createLike(place, c10::Symbol::fromQualString("aten::tensor_split"),
                 {key.first, at->output(), place->input(1)});
  split->output()->setType(c10::ListType::ofTensors());
  split->insertBefore(place);
  Node* unpack =
      createLike(place, prim::ListUnpack, {split->output()}, cover.size());
  unpack->insertBefore(place);
  for (size_t i = 0; i < cover.size(); ++i) {
    Value* piece = unpack->output(i);
    piece->setType(cover[i].node->output()->type());
    for (const Slice& slice : slices)
      if (slice.start == cover[i].start && slice.end == cover[i].end)
        replaceValue(slice.node->output(), piece);
  }
  return true;
}

bool joinIn(Block* block, const StorageGroups& groups) {
  bool changed = false;
  for (Node* node : block->nodes())
    for (Block* inner : node->blocks())
      changed |= joinIn(inner, groups);
  for (const auto& [key, slices] : collectSlices(block))
    changed |= join(key, slices, groups);
  return changed;
}

} // namespace

bool joinSlices(Graph& graph) {
  const StorageGroups groups(graph, /*joinsApart=*/true);
  const bool changed = joinIn(graph.block(), groups);
  if (changed)
    removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
