#include "passes/support/Holds.h"

#include "passes/support/GraphUtil.h"

#include <ATen/ops/alias.h>
#include <torch/library.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

at::Tensor run(const at::Tensor& whole, const at::Tensor&) {
  return at::alias(whole);
}

TORCH_LIBRARY_FRAGMENT(inv_opt, m) {
  m.def("holds(Tensor whole, Tensor part, int operand) -> Tensor");
  m.impl("holds",
         torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd,
                         [](const at::Tensor& whole, const at::Tensor& part,
                            int64_t) { return run(whole, part); }));
}

} // namespace

c10::Symbol holdsSymbol() {
  static const auto s = c10::Symbol::fromQualString("inv_opt::holds");
  return s;
}

Value* heldOperand(Node* node) {
  return node->input(1)->node()->input(
      size_t(constantInt(node->input(2)).value()));
}

bool lowerHolds(Block* block) {
  std::vector<Node*> found;
  for (Node* node : allNodes(block))
    if (node->kind() == holdsSymbol())
      found.push_back(node);
  for (Node* node : found) {
    Value* whole = node->input(0);
    // What a method is given it does not return itself.
    if (whole->node()->kind() == prim::Param) {
      WithInsertPoint guard(node);
      whole = node->owningGraph()->insert(aten::alias, {whole});
    }
    replaceValue(node->output(), whole);
    node->destroy();
  }
  return !found.empty();
}

} // namespace inv::opt
