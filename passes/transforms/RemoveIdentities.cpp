// Operators that return their operand.
//
//   slice(x, d, 0 or None, end, 1)           ==>  x         (end: the last one)
//   slice(slice(x, d, a, b), d, c, e)        ==>  slice(x, d, a + c, min(...))
//   dropout(x, 0.0, flag), dropout(x, p, False)   ==>  x
//   contiguous(contiguous(x))                ==>  contiguous(x)
//   type_as(x, x)                            ==>  x
//
// Why it is sound. Each of these returns a tensor of the same values, sizes,
// strides and address (dropout and contiguous the very tensor), so neither the
// values nor the code that ATen picks for a reader change, nor do the
// gradients.
//
// Left alone: `contiguous` and `clone` of anything else. They change strides,
// and with them the last bits of some readers; the analysis treats them as
// layout operators. `to` and `type_as`: the dtype is not known when compiling.
// `detach`: it cuts the gradient. A dropout whose flag is an attribute.
#include "passes/transforms/RemoveIdentities.h"

#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <set>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool isTensor(const Value* value) {
  return value->type()->isSubtypeOf(*c10::TensorType::get());
}

/// A slice of a tensor with constant bounds and step 1.
struct Bounds {
  int64_t dim, start, end;
};

std::optional<Bounds> boundsOf(const Node* node) {
  if (node->kind() != aten::slice || node->inputs().size() != 5 ||
      !isTensor(node->input(0)))
    return std::nullopt;
  auto dim = constantInt(node->input(1));
  auto start = isNone(node->input(2)) ? 0 : constantInt(node->input(2));
  auto end = isNone(node->input(3)) ? kOpenEnd : constantInt(node->input(3));
  if (!dim || !start || !end || constantInt(node->input(4)).value_or(0) != 1)
    return std::nullopt;
  return Bounds{*dim, *start, *end};
}

bool isDropout(const Node* node) {
  static const std::set<c10::Symbol> kinds = {
      aten::dropout, aten::feature_dropout, aten::alpha_dropout,
      aten::feature_alpha_dropout};
  return kinds.count(node->kind()) && node->inputs().size() == 3;
}

bool isPlainContiguous(const Node* node) {
  return node->kind() == aten::contiguous && node->inputs().size() == 2 &&
         constantInt(node->input(1)).value_or(-1) ==
             static_cast<int64_t>(c10::MemoryFormat::Contiguous);
}

/// The operand that the node returns; null where it does more than that.
Value* identityOf(const Node* node) {
  if (auto bounds = boundsOf(node))
    return bounds->start == 0 && bounds->end == kOpenEnd
               ? const_cast<Node*>(node)->input(0)
               : nullptr;
  auto* mutableNode = const_cast<Node*>(node);
  if (isDropout(node)) {
    auto p = constantNumber(node->input(1));
    const bool off = !constantBool(node->input(2)).value_or(true);
    // An impossible p must go on throwing.
    if (p && *p >= 0 && *p <= 1 && (*p == 0 || off))
      return mutableNode->input(0);
  }
  if (isPlainContiguous(node) && isPlainContiguous(node->input(0)->node()))
    return mutableNode->input(0);
  if (node->kind() == aten::type_as && node->input(0) == node->input(1))
    return mutableNode->input(0);
  return nullptr;
}

/// slice of slice: both bounds in terms of the outer value.
bool mergeSlices(Node* node) {
  auto inner = boundsOf(node);
  auto outer = boundsOf(node->inputs().empty() ? node : node->input(0)->node());
  if (!inner || !outer || inner->dim != outer->dim)
    return false;
  // Negative bounds count from an end that only the run knows.
  if (inner->start < 0 || inner->end < 0 || outer->start < 0 || outer->end < 0)
    return false;
  const auto shifted = [&](int64_t bound) {
    return bound > kOpenEnd - outer->start ? kOpenEnd : bound + outer->start;
  };
  WithInsertPoint guard(node);
  Graph* graph = node->owningGraph();
  node->replaceInput(2, graph->insertConstant(shifted(inner->start)));
  node->replaceInput(
      3, graph->insertConstant(std::min(shifted(inner->end), outer->end)));
  node->replaceInput(0, node->input(0)->node()->input(0));
  return true;
}

} // namespace

bool removeIdentities(Graph& graph) {
  bool changed = false;
  std::vector<Node*> gone;
  for (Node* node : allNodes(graph.block())) {
    if (node->outputs().size() != 1)
      continue;
    if (mergeSlices(node))
      changed = true;
    if (Value* same = identityOf(node)) {
      node->output()->replaceAllUsesWith(same);
      gone.push_back(node);
      changed = true;
    }
  }
  // Not left to removeDeadNodes, which takes a dropout to draw numbers.
  for (Node* node : gone)
    node->destroy();
  if (changed)
    removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
