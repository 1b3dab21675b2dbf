#include "StepNode.h"

#include <torch/csrc/autograd/variable.h>

namespace inv {

StepNode::~StepNode() {
  for (SlotPtr& s : xs)
    release(std::move(s));
  release(std::move(record));
}

void StepNode::will_release_variables() {
  std::lock_guard lock(mutex_);
  willRelease_ = true;
}

void StepNode::release_variables() {
  std::vector<SlotPtr> slots;
  RecordPtr dead;
  {
    std::lock_guard lock(mutex_);
    slots.swap(xs);
    dead.swap(record);
  }
  for (SlotPtr& s : slots)
    release(std::move(s));
  release(std::move(dead));
}

SlotPtr StepNode::outputSlot(size_t i) {
  std::lock_guard lock(mutex_);
  return record ? record->output(i) : nullptr;
}

void attachOutput(const std::shared_ptr<StepNode>& node, const at::Tensor& t,
                  bool shown) {
  namespace ag = torch::autograd;
  at::Tensor variable = t;
  if (!shown) {
    ag::create_gradient_edge(variable, node);
    return;
  }
  const auto output =
      std::shared_ptr<OutputNode>(new OutputNode, ag::deleteNode);
  output->add_next_edge(ag::Edge(node, node->add_input_metadata(t)));
  ag::create_gradient_edge(variable, output);
}

torch::autograd::Edge edgeTo(const at::Tensor& t) {
  if (!t.requires_grad())
    return {};
  torch::autograd::Edge edge = torch::autograd::impl::gradient_edge(t);
  const auto& tensor = t.getIntrusivePtr();
  // (All strong references together count as one weak one.)
  constexpr size_t kOne = 1;
  if (tensor.use_count() != kOne || tensor.weak_use_count() != kOne)
    return edge;
  auto* shown = dynamic_cast<OutputNode*>(edge.function.get());
  constexpr long kOwners = 2; // the tensor and `edge`
  if (shown == nullptr || edge.function.use_count() != kOwners ||
      !shown->tensor_pre_hooks().empty() || !shown->pre_hooks().empty() ||
      !shown->post_hooks().empty() || !shown->retains_grad_hooks().empty())
    return edge;
  return shown->next_edge(0);
}

SlotPtr slotOf(const at::Tensor& t) {
  torch::autograd::Node* made = t.grad_fn().get();
  size_t output = t.output_nr();
  if (const auto* shown = dynamic_cast<OutputNode*>(made)) {
    made = shown->next_edge(0).function.get();
    output = shown->next_edge(0).input_nr;
  }
  if (auto* node = dynamic_cast<StepNode*>(made)) {
    SlotPtr s = node->outputSlot(output);
    if (s && s->standsFor(t))
      return s;
  }
  return std::make_shared<Slot>(t);
}

} // namespace inv
