#include "passes/analysis/Judge.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

namespace {

/// Disjoint sets of derivations.
class Groups {
public:
  explicit Groups(size_t n) : parent_(n) {
    std::iota(parent_.begin(), parent_.end(), size_t(0));
  }
  size_t find(size_t i) {
    while (parent_[i] != i)
      i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void unite(size_t a, size_t b) { parent_[find(a)] = find(b); }

private:
  std::vector<size_t> parent_;
};

class Judge {
public:
  Judge(const RuleContext& context, const Sweep& sweep)
      : context_(context), flow_(context.flow), sweep_(sweep),
        all_(sweep.derivations()) {}

  Verdict run() {
    findSavers();
    findUseful();
    findKept();
    weighGroups();
    return std::move(verdict_);
  }

private:
  bool saves(NodeId n) const { return flow_.node(n).savesAnything(); }

  /// Backwards over the inverse program: what does anybody want?
  void findUseful();
  void collectUseful(std::unordered_set<ValueId> wanted);
  void wantCarried(std::unordered_set<ValueId>& wanted) const;
  bool isSpread(ValueId v) const;
  bool isUseful(const Derivation& d,
                const std::unordered_set<ValueId>& wanted) const;
  bool keptByOthers(ValueId storage) const;
  void findSavers();
  void findKept();
  void weighGroups();

  const RuleContext& context_;
  const Dataflow& flow_;
  const Sweep& sweep_;
  const std::vector<Derivation>& all_;
  std::vector<size_t> useful_; ///< indices into all_, ascending
  std::unordered_set<NodeId> inStep_;
  std::unordered_set<NodeId> rerun_; ///< by useful derivations
  std::unordered_map<ValueId, std::vector<NodeId>> savers_; ///< by storage
  std::unordered_set<ValueId> callers_; ///< storages kept around the block
  std::unordered_set<NodeId> touched_;  ///< by any derivation of the sweep
  std::unordered_set<ValueId> keptElsewhere_; ///< storages
  /// What derivations make or start from that nobody takes on behind the block.
  std::vector<std::pair<size_t, ValueId>> unclaimed_;
  Verdict verdict_;
};

/// Made by unsqueeze and scales of it: smaller than what it is added to, so
/// that the step would keep it (a log-determinant added to class scores).
bool Judge::isSpread(ValueId v) const {
  constexpr int kMostNodes = 4;
  for (int i = 0; i < kMostNodes && flow_.value(v).def >= 0; ++i) {
    const NodeInfo& def = flow_.node(flow_.value(v).def);
    if (def.node->kind() == torch::jit::aten::unsqueeze)
      return true;
    if (def.node->kind() != torch::jit::aten::mul &&
        def.node->kind() != torch::jit::aten::div)
      return false;
    const auto activation =
        std::find_if(def.operands.begin(), def.operands.end(),
                     [&](ValueId o) { return flow_.value(o).isActivation(); });
    if (activation == def.operands.end())
      return false;
    v = *activation;
  }
  return false;
}

bool Judge::isUseful(const Derivation& d,
                     const std::unordered_set<ValueId>& wanted) const {
  // Nodes that a useful derivation runs again anyway are no gain: a
  // log-determinant that nobody keeps needs no rebuilding.
  const bool spread =
      std::any_of(d.solved.begin(), d.solved.end(), [&](ValueId x) {
        return !wanted.count(flow_.canonical(x)) && isSpread(x);
      });
  for (NodeId n : d.conditioner)
    if (saves(n) && !rerun_.count(n) && !spread)
      return true;
  if (context_.options.forceSteps && d.cls != RuleClass::Free &&
      d.cls != RuleClass::Scale)
    return true;
  if (d.cls == RuleClass::Annotated)
    return true;
  for (ValueId x : d.solved) {
    if (wanted.count(flow_.canonical(x)))
      return true;
    // Its own operator saves it, and nobody else keeps it anyway.
    const auto& saved = flow_.node(d.node).saved;
    if (std::find(saved.begin(), saved.end(), x) != saved.end() &&
        !keptByOthers(flow_.storage(x)))
      return true;
  }
  return false;
}

/// The caller has it, or an operator that no derivation touches saves it.
bool Judge::keptByOthers(ValueId storage) const {
  if (callers_.count(storage))
    return true;
  auto savers = savers_.find(storage);
  if (savers == savers_.end())
    return false;
  return std::any_of(savers->second.begin(), savers->second.end(),
                     [&](NodeId n) { return !touched_.count(n); });
}

void Judge::collectUseful(std::unordered_set<ValueId> wanted) {
  useful_.clear();
  rerun_.clear();
  for (size_t i = all_.size(); i-- > 0;) {
    const Derivation& d = all_[i];
    if (!isUseful(d, wanted))
      continue;
    useful_.push_back(i);
    rerun_.insert(d.conditioner.begin(), d.conditioner.end());
    for (ValueId y : flow_.node(d.node).results)
      wanted.insert(flow_.canonical(y));
    for (ValueId t : d.terminals)
      wanted.insert(flow_.canonical(t));
  }
}

/// What somebody before the block may want: a branch's inputs, and what an
/// iteration is given where steps of the one before made it.
void Judge::wantCarried(std::unordered_set<ValueId>& wanted) const {
  if (!flow_.outer())
    return;
  std::unordered_set<ValueId> made; // storages
  for (size_t i : useful_) {
    for (ValueId y : flow_.node(all_[i].node).results)
      made.insert(flow_.storage(y));
    for (ValueId t : all_[i].terminals)
      made.insert(flow_.storage(t));
  }
  for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v) {
    const ValueInfo& info = flow_.value(v);
    if (info.graphInput && info.isActivation() && !info.keptAround &&
        (!flow_.isLoop() || made.count(flow_.storage(v))))
      wanted.insert(flow_.canonical(v));
  }
}

void Judge::findUseful() {
  for (const Derivation& d : all_) {
    touched_.insert(d.node);
    touched_.insert(d.conditioner.begin(), d.conditioner.end());
  }
  // All parts of a value are of use, or none: where one is, the value is
  // wanted.
  std::unordered_set<ValueId> joined;
  for (size_t before = 1; before != joined.size();) {
    before = joined.size();
    collectUseful(joined);
    for (size_t i : useful_)
      if (solvesPart(all_[i]))
        for (ValueId x : all_[i].solved)
          joined.insert(flow_.canonical(x));
    wantCarried(joined);
  }
  std::set<size_t> useful(useful_.begin(), useful_.end());
  // What is of no use and starts from what such a one gives would hold an
  // anchor itself in the next round, and so on down a chain of
  // log-determinants.
  std::unordered_set<ValueId> lost;
  for (size_t i = 0; i < all_.size(); ++i) {
    const Derivation& d = all_[i];
    const auto& results = flow_.node(d.node).results;
    const bool combines =
        d.cls == RuleClass::Sum || d.cls == RuleClass::Product;
    if (useful.count(i) ||
        (d.anchors.empty() &&
         !(combines &&
           std::any_of(results.begin(), results.end(), [&](ValueId y) {
             return lost.count(flow_.canonical(y)) != 0;
           }))))
      continue;
    ban(d, verdict_.bans);
    for (ValueId x : d.solved)
      lost.insert(flow_.canonical(x));
  }
  std::reverse(useful_.begin(), useful_.end());
  for (size_t i : useful_) {
    if (all_[i].candidate >= 0)
      inStep_.insert(all_[i].node);
    inStep_.insert(all_[i].conditioner.begin(), all_[i].conditioner.end());
  }
}

void Judge::findSavers() {
  for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n)
    for (ValueId v : flow_.node(n).saved)
      savers_[flow_.storage(v)].push_back(n);
  for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v)
    if (flow_.value(v).keptAround)
      callers_.insert(flow_.storage(v));
}

/// Storages that stay whatever the derivations drop.
void Judge::findKept() {
  keptElsewhere_ = callers_;
  for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v) {
    if (sweep_.availability()[flow_.canonical(v)] == Availability::Anchor)
      keptElsewhere_.insert(flow_.storage(v));
  }
  // What an iteration hands on is rebuilt where it is given to the next one.
  std::unordered_set<ValueId> taken;
  for (size_t i : useful_)
    for (ValueId x : all_[i].solved)
      taken.insert(flow_.storage(x));
  // What a step starts from is held by the step where nobody rebuilds it.
  for (size_t i : useful_) {
    auto hold = [&](ValueId v) {
      const ValueInfo& info = flow_.value(v);
      const Availability a = sweep_.availability()[flow_.canonical(v)];
      if (a == Availability::Rebuilt)
        return;
      if (a == Availability::Output && !info.keptAround) {
        if (!info.unclaimed || taken.count(info.storage))
          return;
        unclaimed_.emplace_back(i, v);
      }
      keptElsewhere_.insert(info.storage);
    };
    for (ValueId t : all_[i].terminals)
      hold(t);
    if (all_[i].candidate >= 0 && !all_[i].ofPart)
      for (ValueId y : flow_.node(all_[i].node).results)
        if (flow_.value(y).isActivation())
          hold(y);
  }
}

void Judge::weighGroups() {
  Groups groups(all_.size());
  std::unordered_map<ValueId, size_t> owner; ///< canonical value → derivation
  std::unordered_map<NodeId, size_t> nodeOwner;
  auto touch = [&](ValueId v, size_t i) {
    auto [at, fresh] = owner.insert({flow_.canonical(v), i});
    if (!fresh)
      groups.unite(at->second, i);
  };
  for (size_t i : useful_) {
    for (ValueId v : all_[i].solved)
      touch(v, i);
    for (ValueId v : flow_.node(all_[i].node).results)
      if (flow_.value(v).isActivation())
        touch(v, i);
    for (ValueId v : all_[i].terminals)
      if (sweep_.availability()[flow_.canonical(v)] == Availability::Rebuilt)
        touch(v, i);
    auto own = [&](NodeId n) {
      auto [at, fresh] = nodeOwner.insert({n, i});
      if (!fresh)
        groups.unite(at->second, i);
    };
    own(all_[i].node);
    for (NodeId n : all_[i].conditioner)
      own(n);
  }
  std::unordered_map<size_t, int64_t> gain, drop;
  for (const auto& [storage, savers] : savers_) {
    verdict_.keptBefore += flow_.weight(storage);
    const bool dropped =
        !keptElsewhere_.count(storage) &&
        std::all_of(savers.begin(), savers.end(),
                    [&](NodeId n) { return inStep_.count(n) != 0; });
    if (!dropped) {
      verdict_.keptAfter += flow_.weight(storage);
      continue;
    }
    verdict_.dropped.push_back(storage);
    const size_t g = groups.find(nodeOwner.at(savers.front()));
    gain[g] += flow_.weight(storage);
    drop[g] += flow_.weight(storage);
  }
  std::sort(verdict_.dropped.begin(), verdict_.dropped.end());
  for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n) {
    const int64_t own = flow_.node(n).savedOwn;
    verdict_.keptBefore += own;
    if (own == 0 || !inStep_.count(n)) {
      verdict_.keptAfter += own;
      continue;
    }
    const size_t g = groups.find(nodeOwner.at(n));
    gain[g] += own;
    drop[g] += own;
  }
  std::unordered_set<ValueId> charged;
  auto charge = [&](size_t i, ValueId held) {
    const ValueId s = flow_.storage(held);
    if (savers_.count(s) || callers_.count(s) || !charged.insert(s).second)
      return;
    gain[groups.find(i)] -= flow_.weight(s);
    verdict_.keptAfter += flow_.weight(s);
  };
  for (size_t i : useful_)
    for (ValueId anchor : all_[i].anchors)
      charge(i, anchor);
  for (const auto& [i, held] : unclaimed_)
    charge(i, held);
  for (size_t i : useful_) {
    const size_t g = groups.find(i);
    if (gain[g] > 0 || context_.options.forceSteps ||
        all_[i].cls == RuleClass::Annotated) {
      verdict_.kept.push_back(all_[i]);
      continue;
    }
    ban(all_[i], verdict_.bans);
    if (all_[i].cls == RuleClass::Free || all_[i].cls == RuleClass::Scale)
      continue;
    verdict_.refusals.push_back(
        {all_[i].node, drop[g] == 0 ? Reason::KeptAnyway : Reason::NoProfit,
         ""});
  }
}

} // namespace

Verdict judge(const RuleContext& context, const Sweep& sweep) {
  return Judge(context, sweep).run();
}

} // namespace inv::opt
