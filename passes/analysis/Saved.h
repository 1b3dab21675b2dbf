// saved(op): what an operator's derivative keeps until backward.
//
// These are the bytes that training a model costs. The table is Saved.def; a
// test (test/passes/analysis/SavedTest.cpp) compares every row with what
// autograd really keeps, for every choice of the inputs that ask for gradients.
#pragma once

#include <functional>
#include <vector>

namespace torch::jit {
struct Node;
struct Value;
} // namespace torch::jit

namespace inv::opt {

struct Saved {
  /// Tensor inputs and outputs of the node that backward reads. Lists are not
  /// looked into: the caller expands them.
  std::vector<torch::jit::Value*> values;
  /// A tensor of the operator's own, about as large as its result.
  bool own = false;
  /// Small ones, such as the statistics of a normalisation.
  bool ownSmall = false;
  /// False where the result asks for no gradient, whatever the inputs do.
  bool differentiable = true;
  /// False where the operator is not in the table; then all its tensor inputs
  /// and outputs are taken to be kept.
  bool known = true;
};

/// Whether a gradient of the value is asked for (of a list: of an element).
using AsksGradient = std::function<bool(const torch::jit::Value*)>;

Saved savedBy(torch::jit::Node* n, const AsksGradient& asks);

} // namespace inv::opt
