// Why a node is not part of a step. Internal to analysis/.
#pragma once

#include "passes/analysis/Invertibility.h"

#include <unordered_map>

namespace inv::opt {

/// Reasons for the nodes that stay plain. A node is under the refusal of the
/// combination that would have contained it; under the nature of its own
/// operator, where there is none.
class WhyKept {
public:
  WhyKept(const RuleContext& rules, const std::vector<Refusal>& refusals);

  Reason of(NodeId n) const;

private:
  void markNetwork(const Refusal& refusal);
  Reason byNature(NodeId n) const;

  const RuleContext& rules_;
  const Dataflow& flow_;
  std::unordered_map<NodeId, Reason> reasons_;
};

} // namespace inv::opt
