// Part of canonicalize. Scripting brings whole library functions into the
// graph, with branches on their default arguments:
//
//   %r = prim::If(%inplace)          # %inplace = Constant[value=0]()
//     block0(): %a = relu_(%x) -> (%a)
//     block1(): %b = relu(%x)  -> (%b)
//
// An `if` that holds an in-place operator on either side is an effect to the
// analysis, so these must go. Sound because only values of immutable types
// (numbers, flags, strings, None) are folded, by LibTorch's own operators, and
// because an optional attribute that no code of the model writes is what the
// archive holds. No tensor is computed here.
#include "passes/transforms/FoldBranches.h"

#include "passes/support/GraphRunner.h"
#include "passes/support/GraphUtil.h"

#include <torch/csrc/jit/passes/constant_propagation.h>

#include <set>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The tensor that is there, as a tensor; None, as None.
void resolve(Graph& graph, Node* read, bool isNone) {
  WithInsertPoint at(read->next());
  if (isNone) {
    Value* none = graph.insertConstant(IValue());
    read->output()->replaceAllUsesWith(none);
    return;
  }
  Node* cast = graph.create(prim::unchecked_cast, {read->output()});
  cast->output()->setType(c10::TensorType::get());
  cast->copyMetadata(read);
  graph.insertNode(cast);
  read->output()->replaceAllUsesAfterNodeWith(cast, cast->output());
}

bool resolveOptionals(PassContext& context,
                      const std::set<std::string>& written) {
  Graph& graph = *context.method.graph;
  bool changed = false;
  for (Node* n : allNodes(graph.block())) {
    if (n->kind() != prim::GetAttr || !isOptionalTensor(n->output()->type()) ||
        written.count(n->s(attr::name)) || n->output()->uses().empty())
      continue;
    if (n->output()->uses().size() == 1 &&
        n->output()->uses()[0].user->kind() == prim::unchecked_cast)
      continue; // resolved by an earlier run
    auto value = evaluateStatic(n->output(), context.model.module._ivalue());
    if (!value)
      continue;
    resolve(graph, n, value->isNone());
    changed = true;
  }
  return changed;
}

/// `training and odd`, once odd is True: an if that returns its condition.
bool foldConditions(Graph& graph) {
  bool changed = false;
  for (Node* n : allNodes(graph.block())) {
    if (n->kind() != prim::If)
      continue;
    const auto yes = n->blocks()[0]->outputs(), no = n->blocks()[1]->outputs();
    for (size_t i = 0; i < n->outputs().size(); ++i)
      if (n->output(i)->hasUses() && constantBool(yes[i]) == true &&
          constantBool(no[i]) == false) {
        n->output(i)->replaceAllUsesWith(n->input());
        changed = true;
      }
  }
  return changed;
}

/// What the graph looks like, constants and their places aside.
std::vector<const void*> shapeOf(Graph& graph) {
  std::vector<const void*> shape;
  const auto addInputs = [&](const Node* n) {
    for (const Value* in : n->inputs())
      shape.push_back(in->node()->kind() == prim::Constant ? nullptr : in);
  };
  for (const Node* n : allNodes(graph.block())) {
    if (n->kind() == prim::Constant)
      continue;
    shape.push_back(n);
    addInputs(n);
    for (const Block* block : n->blocks())
      addInputs(block->return_node());
  }
  addInputs(graph.return_node());
  return shape;
}

} // namespace

bool foldBranches(PassContext& context, const std::set<std::string>& written) {
  bool changed = resolveOptionals(context, written);
  const auto before = shapeOf(*context.method.graph);
  // Its own answer is also "changed" where it only moved constants.
  ConstantPropagationImmutableTypes(context.method.graph);
  changed |= foldConditions(*context.method.graph);
  return changed | (shapeOf(*context.method.graph) != before);
}

} // namespace inv::opt
