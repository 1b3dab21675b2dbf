// Part of canonicalize. Loops over the elements of a list.
//
//   %xs = aten::chunk(%x, %4, %dim)
//   %y = prim::Loop(%4, %true, %z)            ==>  %x0 = aten::__getitem__(...)
//     block0(%i, %c):                              %y0 = aten::add(%z, %x0)
//       %e = aten::__getitem__(%xs, %i)            %x1 = ...
//       %d = aten::add(%c, %e)
//       -> (%true, %d)
//
// Which element is read, only the number of the iteration tells, so what flows
// where is hidden until the loop is written out. Scripting does this itself for
// a loop over modules.
//
// Unrolled is a loop whose number of iterations is a constant, that nothing
// leaves early, and that takes elements out of a list of tensors. Any other
// loop stays one, for whatever number of iterations: code does not grow without
// need.
//
// Left alone: loops that would become more than kMostNodes nodes.
#include "passes/transforms/UnrollLoops.h"

#include "passes/support/GraphUtil.h"

#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

constexpr int64_t kMostNodes = 20000;

bool isTensorList(const Value* v) {
  auto list = v->type()->cast<c10::ListType>();
  return list && list->getElementType()->isSubtypeOf(*c10::TensorType::get());
}

/// The loop's trips, where they are a constant and all of them are made.
std::optional<int64_t> tripsOf(Node* loop) {
  const auto trips = constantInt(loop->input(0));
  const Block* body = loop->blocks().at(0);
  if (!trips || !constantBool(loop->input(1)).value_or(false) ||
      !constantBool(body->outputs().at(0)).value_or(false))
    return std::nullopt;
  return std::max<int64_t>(*trips, 0);
}

void unroll(Node* loop, int64_t trips) {
  Graph* graph = loop->owningGraph();
  WithInsertPoint at(loop);
  Block* body = loop->blocks().at(0);
  std::vector<Value*> carried(loop->inputs().begin() + 2, loop->inputs().end());
  for (int64_t trip = 0; trip < trips; ++trip) {
    std::unordered_map<const Value*, Value*> map;
    map[body->inputs().at(0)] = graph->insertConstant(trip);
    for (size_t i = 0; i < carried.size(); ++i)
      map[body->inputs().at(i + 1)] = carried[i];
    const auto get = [&](Value* v) {
      auto found = map.find(v);
      return found == map.end() ? v : found->second;
    };
    for (Node* n : body->nodes()) {
      Node* clone = graph->insertNode(graph->createClone(n, get));
      for (size_t i = 0; i < n->outputs().size(); ++i)
        map[n->output(i)] = clone->output(i);
    }
    for (size_t i = 0; i < carried.size(); ++i)
      carried[i] = get(body->outputs().at(i + 1));
  }
  for (size_t i = 0; i < carried.size(); ++i)
    replaceValue(loop->output(i), carried[i]);
  loop->destroy();
}

} // namespace

bool readsElements(Node* loop) {
  Block* body = loop->blocks().at(0);
  std::unordered_set<const Value*> counted{body->inputs().at(0)};
  for (Node* n : allNodes(body)) {
    const bool depends =
        std::any_of(n->inputs().begin(), n->inputs().end(),
                    [&](const Value* in) { return counted.count(in) != 0; });
    if (!depends)
      continue;
    if (n->kind() == aten::__getitem__ && isTensorList(n->input(0)) &&
        counted.count(n->input(1)) != 0 &&
        !ancestorIn(n->input(0)->node(), body))
      return true;
    for (const Value* out : n->outputs())
      if (out->type()->kind() == c10::TypeKind::IntType)
        counted.insert(out);
  }
  return false;
}

bool unrollLoops(Graph& graph) {
  // Innermost first: an outer loop is then copied with its inner one unrolled.
  std::vector<Node*> loops;
  for (Node* n : allNodes(graph.block()))
    if (n->kind() == prim::Loop)
      loops.push_back(n);
  bool changed = false;
  for (auto loop = loops.rbegin(); loop != loops.rend(); ++loop) {
    const auto trips = tripsOf(*loop);
    if (!trips || !readsElements(*loop))
      continue;
    const auto nodes =
        static_cast<int64_t>(allNodes((*loop)->blocks().at(0)).size());
    if (*trips != 0 && nodes > kMostNodes / *trips)
      continue;
    unroll(*loop, *trips);
    changed = true;
  }
  return changed;
}

} // namespace inv::opt
