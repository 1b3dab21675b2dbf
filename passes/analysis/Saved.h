// saved(op): which of its inputs and outputs an operator's derivative keeps.
//
// These are the bytes that training a model costs. The table is read off
// PyTorch's derivative formulas (tools/autograd/derivatives.yaml, 2.11) and
// checked against autograd by a test (test/passes/analysis/SavedTest.cpp)
// that looks at what is really kept.
#pragma once

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
  /// False where the operator is not in the table; then all its tensor inputs
  /// and outputs are taken to be kept.
  bool known = true;
};

Saved savedBy(torch::jit::Node* n);

} // namespace inv::opt
