// What is to become steps in a method, and in the blocks of its ifs and loops.
//
// Each block is analysed as a method is. Outer blocks come first: what lies in
// the network of a step stays there as it is. Of the blocks inside it is known
// what their surroundings keep and rebuild; runtime and operators do the rest:
// a state that a step of one block made is handed over when a step of another
// takes it.
#pragma once

#include "passes/analysis/Invertibility.h"
#include "passes/analysis/MethodFacts.h"
#include "passes/transforms/StepSchedule.h"

#include <memory>
#include <unordered_set>

namespace inv::opt {

class BlockPlan {
public:
  /// The plan for the method that the facts are of, blocks inside included.
  explicit BlockPlan(const MethodFacts& facts);
  BlockPlan(const BlockPlan&) = delete;
  BlockPlan& operator=(const BlockPlan&) = delete;

  const Dataflow& flow() const { return rules_.flow; }
  const RuleContext& rules() const { return rules_; }
  /// See leavingValues().
  const std::unordered_set<const torch::jit::Value*>& leaving() const {
    return *leaving_;
  }
  /// In this block or in one inside.
  bool hasSteps() const;
  /// By ascending node; none for what became a step in another way, nor for
  /// ifs and loops in which steps were found.
  std::vector<Refusal> refusals() const;

  Invertibility found;
  std::vector<StepDraft> drafts;
  Schedule schedule;
  /// Of the nodes that stay, in their order.
  std::vector<std::unique_ptr<BlockPlan>> inner;

private:
  BlockPlan(const BlockPlan& outer, torch::jit::Block& block);
  void make();
  std::vector<DraftRefusal> wrongAnnotations() const;
  void planInner();
  Surroundings around(ValueId v, NodeId node) const;

  const MethodFacts& facts_;
  std::unique_ptr<Dataflow> ownFlow_; ///< of a block inside
  const RuleContext rules_;
  std::shared_ptr<const std::unordered_set<const torch::jit::Value*>> leaving_;
  std::vector<Refusal> refusals_; ///< of plans that came to nothing
  /// By storage: the nodes that stay and keep it, each with the value.
  std::unordered_map<ValueId, std::vector<std::pair<NodeId, ValueId>>> keepers_;
  std::unordered_set<ValueId> rebuilt_; ///< canonical values
};

/// Calls `visit` for the plan and for those inside, outer ones first.
void forEachPlan(const BlockPlan& plan,
                 const std::function<void(const BlockPlan&)>& visit);

} // namespace inv::opt
