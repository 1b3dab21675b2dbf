// The autograd node of one executed step.
#pragma once

#include "Slot.h"

#include <torch/csrc/autograd/function.h>

namespace inv {

/// Owns the record of its step and the slots of the states x that it consumed
/// (or, where the call keeps x, reads). Inputs of the node, that is next edges:
/// x..., z..., captures. Outputs of the operator: y..., sides..., z....
class StepNode : public torch::autograd::Node, Counted<&Counters::liveNodes> {
public:
  ~StepNode() override;

  std::string name() const override { return "InvStepBackward"; }
  torch::autograd::variable_list
  apply(torch::autograd::variable_list&& grads) override;
  void will_release_variables() override;
  void release_variables() override;

  /// The slot of output number `i`; null after release.
  SlotPtr outputSlot(size_t i);

  /// What the forward knew of an x.
  struct Input {
    std::vector<int64_t> sizes;
    at::ScalarType dtype;
  };

  // Set by the forward, before anybody else sees the node:
  RecordPtr record;
  std::vector<SlotPtr> xs;
  std::vector<Input> inputs; // one for each x
  /// The function's gradient takes x from xs instead of undoing y.
  bool keepsX = false;

private:
  friend class StepBackward;
  bool willRelease_ = false; // guarded by mutex_, as are record and xs
};

/// The node behind one output of a step: hands the gradient on. A hook on a
/// tensor is called whenever the tensor's node runs, if need be with no
/// gradient at all; so a step that runs for another of its outputs must not be
/// the node that the tensor shows.
class OutputNode : public torch::autograd::Node {
public:
  std::string name() const override { return "InvStepOutputBackward"; }
  torch::autograd::variable_list
  apply(torch::autograd::variable_list&& grads) override {
    return std::move(grads);
  }
};

/// Makes `t` the next output of `node`, by way of an OutputNode if it is
/// `shown` to whoever holds the model's results and the step has others.
void attachOutput(const std::shared_ptr<StepNode>& node, const at::Tensor& t,
                  bool shown);

/// The edge along which a step that takes `t` sends t's gradient: past its
/// OutputNode, which is a run of the engine less, where nobody but the caller
/// has the tensor or the node. Then nobody can put a hook there any more, ask
/// for the tensor's gradient, or use it once more.
torch::autograd::Edge edgeTo(const at::Tensor& t);

/// The slot of the state that `t` is: that of the step that made it, or a new,
/// vacant one.
SlotPtr slotOf(const at::Tensor& t);

} // namespace inv
