// The tensors that autograd's nodes keep for backward.
#pragma once

#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::autograd {
struct Node;
} // namespace torch::autograd

namespace inv::opt {

/// What `node` saved; nothing where it cannot tell (a node of another library
/// may not say what it holds). REQUIRES: none of it was written since.
std::optional<std::vector<at::Tensor>>
savedTensors(const std::shared_ptr<torch::autograd::Node>& node);

/// Walks graphs of autograd, each node once. Keeps the nodes alive.
class AutogradWalk {
public:
  /// The nodes behind `output` that were not met before, leaves left out.
  std::vector<std::shared_ptr<torch::autograd::Node>>
  newNodes(const at::Tensor& output);

private:
  std::unordered_set<std::shared_ptr<torch::autograd::Node>> seen_;
};

} // namespace inv::opt
