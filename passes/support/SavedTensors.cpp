#include "passes/support/SavedTensors.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

namespace inv::opt {

using torch::autograd::Node;

// Autograd's own compiler asks each node for what it saved; so can we.
std::optional<std::vector<at::Tensor>>
savedTensors(const std::shared_ptr<Node>& node) {
  namespace compiled = torch::dynamo::autograd;
  compiled::AutogradCompilerCall call(compiled::SizeInput::STATIC);
  compiled::NodeCall nodeCall(0, node);
  compiled::CompiledNodeArgs arguments(call, nodeCall);
  try {
    node->compiled_args(arguments);
  } catch (const c10::Error&) {
    return std::nullopt;
  } catch (const std::runtime_error&) { // Node's own: not implemented
    return std::nullopt;
  }
  return call.tensor_args.inputs;
}

std::vector<std::shared_ptr<Node>>
AutogradWalk::newNodes(const at::Tensor& output) {
  std::vector<std::shared_ptr<Node>> found, work;
  auto visit = [&](const std::shared_ptr<Node>& node) {
    if (node && !dynamic_cast<torch::autograd::AccumulateGrad*>(node.get()) &&
        seen_.insert(node).second)
      work.push_back(node);
  };
  visit(output.grad_fn());
  while (!work.empty()) {
    found.push_back(work.back());
    work.pop_back();
    for (size_t i = 0; i < found.back()->num_outputs(); ++i)
      visit(found.back()->next_edge(i).function);
  }
  return found;
}

} // namespace inv::opt
