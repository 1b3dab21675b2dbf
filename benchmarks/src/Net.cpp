#include "Net.h"

#include "inv/Abi.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/jit/serialization/import.h>

namespace inv::bench {

int64_t Evaluations::count = 0;

namespace {

Tensors parametersOf(const torch::jit::Module& module) {
  Tensors result;
  for (const at::Tensor& p : module.parameters())
    result.push_back(p);
  return result;
}

} // namespace

at::Tensor Branch::operator()(const at::Tensor& x) const {
  ++Evaluations::count;
  return module_.forward({x}).toTensor();
}

Tensors Branch::parameters() const { return parametersOf(module_); }

Block::Block(torch::jit::Module module) : module_(std::move(module)) {
  if (!module_.hasattr("f") || !module_.hasattr("g"))
    return;
  branches_.emplace_back(module_.attr("f").toModule());
  branches_.emplace_back(module_.attr("g").toModule());
  dim_ = module_.attr("dim").toInt();
}

at::Tensor Block::operator()(const at::Tensor& x) const {
  Evaluations::count += static_cast<int64_t>(branches_.size());
  return module_.forward({x}).toTensor();
}

Tensors Block::parameters() const { return parametersOf(module_); }

Net::Net(const std::string& path) : module_(torch::jit::load(path)) {
  module_.train();
  for (auto [name, parameter] : parameters())
    parameter.mutable_grad() = at::zeros_like(parameter);
}

at::Tensor Net::forward(const at::Tensor& x) {
  return module_.forward({x}).toTensor();
}
at::Tensor Net::stem(const at::Tensor& x) {
  return module_.attr("stem").toModule().forward({x}).toTensor();
}
at::Tensor Net::head(const at::Tensor& x) {
  return module_.attr("head").toModule().forward({x}).toTensor();
}

const std::vector<Block>& Net::blocks() {
  if (blocks_.empty())
    for (const auto& block : module_.attr("blocks").toModule().named_children())
      blocks_.emplace_back(block.value);
  return blocks_;
}

std::vector<std::pair<std::string, at::Tensor>> Net::parameters() const {
  std::vector<std::pair<std::string, at::Tensor>> result;
  for (const auto& p : module_.named_parameters())
    result.emplace_back(p.name, p.value);
  return result;
}

std::vector<std::pair<std::string, at::Tensor>> Net::buffers() const {
  std::vector<std::pair<std::string, at::Tensor>> result;
  for (const auto& b : module_.named_buffers())
    result.emplace_back(b.name, b.value);
  return result;
}

void Net::setMode(const std::string& mode) {
  for (const auto& child : module_.named_children())
    if (child.name.starts_with(abi::kStepPrefix)) {
      torch::jit::Module step = child.value;
      step.setattr(abi::kMode, mode);
    }
}

int64_t Net::numSteps() const {
  int64_t steps = 0;
  for (const auto& child : module_.named_children())
    steps += child.name.starts_with(abi::kStepPrefix);
  return steps;
}

} // namespace inv::bench
