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

SlotPtr slotOf(const at::Tensor& t) {
  if (auto* node = dynamic_cast<StepNode*>(t.grad_fn().get())) {
    SlotPtr s = node->outputSlot(t.output_nr());
    if (s && s->standsFor(t))
      return s;
  }
  return std::make_shared<Slot>(t);
}

} // namespace inv
