// The sweep's explanations: why a node was not undone. Changes nothing but the
// list of refusals.
#include "passes/analysis/Sweep.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <functional>
#include <queue>

namespace inv::opt {

using namespace torch::jit;

bool Sweep::isSum(NodeId n) const {
  const auto& candidates = candidatesOf(n, context_);
  return std::any_of(
      candidates.begin(), candidates.end(), [](const Candidate& c) {
        return !c.refused &&
               (c.cls == RuleClass::Sum || c.cls == RuleClass::Annotated);
      });
}

/// Values that are computed from `from` on ways around node n, the nearest
/// ones: as many as are worth looking at for what belongs to one block.
std::unordered_set<ValueId> Sweep::reachedFrom(const std::vector<ValueId>& from,
                                               NodeId n) const {
  std::unordered_set<ValueId> reached;
  std::priority_queue<NodeId, std::vector<NodeId>, std::greater<>> ahead;
  std::unordered_set<NodeId> seen{n};
  auto reach = [&](ValueId v) {
    reached.insert(v);
    reached.insert(flow_.canonical(v));
    for (NodeId reader : flow_.value(v).readers)
      if (seen.insert(reader).second)
        ahead.push(reader);
  };
  for (ValueId v : from)
    reach(v);
  for (int64_t left = context_.options.maxConditioner;
       left > 0 && !ahead.empty(); --left) {
    const NodeId node = ahead.top();
    ahead.pop();
    for (ValueId v : flow_.node(node).results)
      if (flow_.value(v).isActivation())
        reach(v);
  }
  return reached;
}

/// Both halves are updated from the old values: what this conditioner reads is
/// the state of another sum whose own conditioner reads ours. The search does
/// not go beyond a half that was updated from ours: that one is no old value.
bool Sweep::isParallelUpdate(NodeId n, const Candidate& c) const {
  const std::unordered_set<ValueId> ours = reachedFrom(c.solved, n);
  auto isUpdated = [&](ValueId v) {
    return ours.count(v) != 0 && isSum(flow_.value(v).def);
  };
  std::unordered_set<ValueId> seen;
  std::vector<ValueId> work(c.others.begin(), c.others.end());
  int budget = 200;
  while (!work.empty() && budget-- > 0) {
    const ValueId v = work.back();
    work.pop_back();
    if (!seen.insert(v).second || !flow_.value(v).isActivation())
      continue;
    for (NodeId reader : flow_.value(v).readers) {
      if (reader == n)
        continue;
      for (const Candidate& other : candidatesOf(reader, context_)) {
        if (other.refused || other.cls != RuleClass::Sum ||
            flow_.canonical(other.solved[0]) != flow_.canonical(v))
          continue;
        for (ValueId o : other.others)
          if (ours.count(o))
            return true;
      }
    }
    if (flow_.value(v).def < 0 || isUpdated(v))
      continue;
    const NodeInfo& maker = flow_.node(flow_.value(v).def);
    // Of its second operand type_as reads the dtype only.
    if (maker.node->kind() == aten::type_as)
      work.push_back(maker.operands[0]);
    else
      work.insert(work.end(), maker.operands.begin(), maker.operands.end());
  }
  return false;
}

/// Turns a failed search into a reason worth telling. Only sums of two
/// networks' worth of data are couplings that somebody may have meant.
void Sweep::explain(NodeId n, const Candidate& c, const Slice& failed) {
  if (c.cls != RuleClass::Sum && c.cls != RuleClass::Annotated)
    return;
  if (!failed.ok && failed.why == Reason::ConditionerReadsState) {
    // Does the conditioner read nothing but the state itself?
    bool readsOthers = false;
    std::unordered_set<ValueId> seen;
    std::vector<ValueId> work(c.others.begin(), c.others.end());
    while (!work.empty()) {
      const ValueId v = work.back();
      work.pop_back();
      if (!seen.insert(v).second || !flow_.value(v).isActivation())
        continue;
      bool isX = false;
      for (ValueId x : c.solved)
        isX |= flow_.canonical(x) == flow_.canonical(v);
      if (isX)
        continue;
      const NodeId def = flow_.value(v).def;
      const NodeId xDef = flow_.value(c.solved[0]).def;
      // Beyond the state's own producer nothing belongs to the block.
      if (def < 0 || def <= xDef ||
          int64_t(seen.size()) > context_.options.maxConditioner) {
        readsOthers = true;
        break;
      }
      for (ValueId operand : flow_.node(def).operands)
        work.push_back(operand);
    }
    return refuse(
        n, readsOthers ? Reason::ConditionerReadsState : Reason::ResidualInput,
        failed.detail);
  }
  if (isParallelUpdate(n, c))
    return refuse(n, Reason::ParallelUpdate, failed.detail);
  if (!failed.ok)
    refuse(n, failed.why, failed.detail);
}

/// What could be undone is there anyway, because it is returned or somebody
/// behind the node keeps it. Told where the node is a coupling to look at.
void Sweep::explainKept(NodeId n, const Candidate& c) {
  if (c.cls != RuleClass::Sum && c.cls != RuleClass::Annotated)
    return;
  for (ValueId x : c.solved) {
    const Availability a = avail_[flow_.canonical(x)];
    if (a != Availability::Output && a != Availability::Held)
      return;
  }
  if (c.cls == RuleClass::Sum) {
    const Slice network = slice(c.others, c.solved, n, Stops::None);
    if (!network.ok || network.nodes.empty())
      return;
    if (isParallelUpdate(n, c)) // kept by the other half's network
      return refuse(n, Reason::ParallelUpdate);
  }
  refuse(n, Reason::KeptAnyway, nameOf(flow_.value(c.solved[0]).value));
}

/// Nodes where a chain ends although it goes on before them: their result is
/// rebuilt, and they cannot be undone.
void Sweep::explainBreaks() {
  for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n) {
    const NodeInfo& info = flow_.node(n);
    const bool rebuilt =
        std::any_of(info.results.begin(), info.results.end(), [&](ValueId v) {
          return flow_.value(v).isActivation() &&
                 avail_[flow_.canonical(v)] == Availability::Rebuilt;
        });
    if (!rebuilt || info.glue || done_[n] || interior_[n] ||
        info.effect == EffectKind::Effect || !candidatesOf(n, context_).empty())
      continue;
    // Hands its parts on: nothing is lost there.
    if (std::any_of(info.results.begin(), info.results.end(),
                    [&](ValueId v) { return flow_.canonical(v) != v; }))
      continue;
    if (!info.node->blocks().empty())
      refuse(n, Reason::ControlFlow);
    else if (info.effect == EffectKind::Random && !info.operands.empty())
      refuse(n, Reason::RandomOnState);
    else if (std::any_of(
                 info.operands.begin(), info.operands.end(), [&](ValueId v) {
                   const NodeId def = flow_.value(flow_.canonical(v)).def;
                   return def >= 0 && flow_.value(v).isActivation() &&
                          isSum(def);
                 }))
      refuse(n, Reason::NotInvertible);
  }
}

} // namespace inv::opt
