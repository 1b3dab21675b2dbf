#include "passes/analysis/WhyKept.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <queue>

namespace inv::opt {

WhyKept::WhyKept(const RuleContext& rules, const std::vector<Refusal>& refusals)
    : rules_(rules), flow_(rules.flow) {
  for (const Refusal& r : refusals)
    reasons_.insert({r.node, r.reason});
  // Ascending: of two sums around a node, the nearer one has it.
  for (const Refusal& r : refusals)
    markNetwork(r);
}

/// The network of a refused coupling: what one of its two operands is computed
/// from and the other is not. A walk backwards from both, latest node first,
/// that ends when all that is left is common to both.
void WhyKept::markNetwork(const Refusal& refusal) {
  const NodeInfo& info = flow_.node(refusal.node);
  std::vector<ValueId> operands;
  for (ValueId v : info.operands)
    if (flow_.value(v).isActivation())
      operands.push_back(v);
  if (operands.size() != 2)
    return;
  constexpr int kBoth = 3;
  std::unordered_map<NodeId, int> sides; // bit 0: of the first, 1: the second
  std::priority_queue<NodeId> ahead;
  int single = 0; // nodes ahead that belong to one operand alone
  auto reach = [&](ValueId v, int side) {
    const NodeId def = flow_.value(flow_.canonical(v)).def;
    if (def < 0)
      return;
    auto [at, fresh] = sides.insert({def, 0});
    if (fresh)
      ahead.push(def);
    else
      single -= at->second != kBoth;
    at->second |= side;
    single += at->second != kBoth;
  };
  reach(operands[0], 1);
  reach(operands[1], 2);
  std::vector<NodeId> network;
  while (single > 0 && !ahead.empty() &&
         int64_t(network.size()) <= rules_.options.maxConditioner) {
    const NodeId n = ahead.top();
    ahead.pop();
    const int side = sides.at(n);
    if (side != kBoth) {
      --single;
      network.push_back(n);
    }
    for (ValueId v : flow_.node(n).operands)
      if (flow_.value(v).isActivation())
        reach(v, side);
  }
  for (NodeId n : network)
    reasons_.insert({n, refusal.reason});
}

Reason WhyKept::byNature(NodeId n) const {
  const NodeInfo& info = flow_.node(n);
  if (!info.node->blocks().empty())
    return Reason::ControlFlow;
  if (info.effect == EffectKind::Effect)
    return Reason::EffectInside;
  if (info.effect == EffectKind::Random)
    return Reason::RandomOnState;
  const std::vector<Candidate>& candidates = candidatesOf(n, rules_);
  if (candidates.empty())
    return Reason::NotInvertible;
  for (const Candidate& c : candidates)
    if (c.refused)
      return *c.refused;
  return Reason::NoProfit;
}

Reason WhyKept::of(NodeId n) const {
  auto found = reasons_.find(n);
  return found == reasons_.end() ? byNature(n) : found->second;
}

} // namespace inv::opt
