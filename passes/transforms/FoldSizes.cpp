// Shape arithmetic of traced graphs as integers.
//
// Tracing records `x.shape[1] // 2` on tensors without dimensions, so that a
// size passes through nodes that look like activations:
//
//   %n : int = aten::size(%x, %1)
//   %t : Tensor = prim::NumToTensor(%n)
//   %h : Tensor = aten::floor_divide(%t, %two)     (a constant tensor)
//   %i : int = aten::Int(%h)
//                ==>
//   %i : int = aten::floordiv(%n, %2)
//
// Only the integer that comes out (Int, IntImplicit, ScalarImplicit) is made
// anew; tensors that are read as tensors stay. No size is ever replaced by a
// number: the model keeps working for other sizes.
//
// Why it is sound. On int64 tensors without dimensions, add, sub (alpha 1),
// mul, floor_divide (rounds down) and remainder (sign of the divisor) are the
// integer operators of the same name, and both throw for a zero divisor. None
// of the tensors passed through may be written in place.
#include "passes/transforms/FoldSizes.h"

#include "passes/support/GraphUtil.h"

#include <algorithm>

#include <torch/csrc/jit/ir/constants.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool isWritten(const Value* value) {
  return std::any_of(value->uses().begin(), value->uses().end(),
                     [](const Use& use) { return writesOperand(use.user); });
}

/// The integer operator that does what `node` does on tensors.
std::optional<c10::Symbol> integerOperator(const Node* node) {
  const auto kind = node->kind();
  const bool hasAlpha = kind == aten::add || kind == aten::sub;
  if (hasAlpha && node->inputs().size() == 3 &&
      constantInt(node->input(2)).value_or(0) == 1)
    return kind;
  if (node->inputs().size() != 2)
    return std::nullopt;
  if (kind == aten::mul || kind == aten::remainder)
    return kind;
  if (kind == aten::floor_divide)
    return aten::floordiv;
  return std::nullopt;
}

/// Whether `value` is an int, or a tensor that holds one for sure.
bool isInteger(Value* value) {
  if (value->type()->kind() == c10::TypeKind::IntType)
    return true;
  if (isWritten(value))
    return false;
  if (auto constant = toIValue(value))
    return constant->isTensor() && constant->toTensor().defined() &&
           constant->toTensor().dim() == 0 &&
           constant->toTensor().scalar_type() == at::kLong;
  Node* node = value->node();
  if (node->kind() == prim::NumToTensor)
    return node->input()->type()->kind() == c10::TypeKind::IntType;
  return integerOperator(node) && isInteger(node->input(0)) &&
         isInteger(node->input(1));
}

/// Makes the int, before the insert point. REQUIRES: isInteger(value).
Value* makeInteger(Value* value) {
  if (value->type()->kind() == c10::TypeKind::IntType)
    return value;
  Graph* graph = value->owningGraph();
  if (auto constant = toIValue(value))
    return graph->insertConstant(constant->toTensor().item<int64_t>());
  Node* node = value->node();
  if (node->kind() == prim::NumToTensor)
    return node->input();
  Value* first = makeInteger(node->input(0));
  Value* second = makeInteger(node->input(1));
  Node* made = createLike(node, *integerOperator(node), {first, second});
  made->output()->setType(c10::IntType::get());
  graph->insertNode(made);
  return made->output();
}

bool readsInteger(const Node* node) {
  return (node->kind() == aten::Int || node->kind() == aten::IntImplicit ||
          node->kind() == aten::ScalarImplicit) &&
         node->inputs().size() == 1 &&
         node->input()->type()->isSubtypeOf(*c10::TensorType::get());
}

} // namespace

bool foldSizes(Graph& graph) {
  bool changed = false;
  for (Node* node : allNodes(graph.block())) {
    if (!readsInteger(node) || !isInteger(node->input()))
      continue;
    WithInsertPoint guard(node);
    replaceValue(node->output(), makeInteger(node->input()));
    changed = true;
  }
  if (changed)
    removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
