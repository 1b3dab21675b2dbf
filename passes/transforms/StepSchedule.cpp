#include "passes/transforms/StepSchedule.h"

#include "passes/rules/Match.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// Which nodes are gone once the steps are in, and which must stay.
class Liveness {
public:
  Liveness(const std::vector<StepDraft>& drafts, const Dataflow& flow)
      : flow_(flow), owner_(flow.nodes().size(), -1),
        live_(flow.nodes().size(), false) {
    std::unordered_set<const Value*> needed;
    for (size_t s = 0; s < drafts.size(); ++s) {
      for (NodeId n : drafts[s].owned)
        owner_[n] = int32_t(s);
      for (const auto* list : {&drafts[s].xs, &drafts[s].zs,
                               &drafts[s].captures, &drafts[s].extras})
        for (ValueId v : *list)
          needed.insert(flow.value(v).value);
      for (NodeId n : drafts[s].stream)
        if (flow.node(n).node->kind() == prim::CallMethod)
          needed.insert(flow.node(n).node->input(0));
    }
    for (NodeId n = 0; n < NodeId(flow.nodes().size()); ++n) {
      // The unpacking of a list that a step makes goes with it.
      const NodeInfo& info = flow.node(n);
      if (info.glue && !info.node->inputs().empty()) {
        const NodeId maker = flow.idOf(info.node->input(0)->node());
        const bool unpack = info.node->kind() == prim::ListUnpack ||
                            info.node->kind() == prim::TupleUnpack;
        if (unpack && maker >= 0)
          owner_[n] = owner_[maker];
      }
    }
    for (NodeId n = NodeId(flow.nodes().size()) - 1; n >= 0; --n)
      live_[n] = owner_[n] < 0 && isNeeded(n, needed);
  }

  bool live(NodeId n) const { return live_[n]; }
  int32_t owner(NodeId n) const { return owner_[n]; }

private:
  bool isNeeded(NodeId n, const std::unordered_set<const Value*>& needed) {
    const NodeInfo& info = flow_.node(n);
    if (!info.glue &&
        (info.effect != EffectKind::Pure || info.node->outputs().empty()))
      return true;
    for (const Value* out : info.node->outputs()) {
      if (needed.count(out))
        return true;
      for (const Use& use : out->uses()) {
        if (use.user->kind() == prim::Return)
          return true;
        const NodeId user = flow_.topLevel(use.user);
        if (user >= 0 && live_[user])
          return true;
      }
    }
    return false;
  }

  const Dataflow& flow_;
  std::vector<int32_t> owner_;
  std::vector<bool> live_;
};

/// "blocks.0.bn.running_mean" of a value read from an attribute.
std::string attributeKey(const Value* v) {
  std::string key;
  while (v->node()->kind() == prim::GetAttr) {
    key = fmt::format("{}.{}", v->node()->s(attr::name), key);
    v = v->node()->input();
  }
  return key;
}

/// The dependencies between units (nodes that stay, and steps).
class Units {
public:
  Units(const std::vector<StepDraft>& drafts, const Dataflow& flow,
        const Liveness& liveness)
      : drafts_(drafts), flow_(flow), liveness_(liveness),
        nodeCount_(int32_t(flow.nodes().size())),
        edges_(flow.nodes().size() + drafts.size()),
        waiting_(edges_.size(), 0) {
    addDataEdges();
    addOrderEdges();
    findPlaces();
  }

  /// Kahn's algorithm, nearest to the old order first. Returns whether all
  /// units were placed; `stuck` names a step that could not be, otherwise.
  bool sort(std::vector<int32_t>& order, int32_t& stuck) {
    using Entry = std::pair<int64_t, int32_t>; // place, unit
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
    std::vector<int32_t> waiting = waiting_;
    size_t count = 0;
    for (int32_t u = 0; u < int32_t(edges_.size()); ++u) {
      if (!exists(u))
        continue;
      ++count;
      if (waiting[u] == 0)
        ready.emplace(place(u), u);
    }
    while (!ready.empty()) {
      const int32_t u = ready.top().second;
      ready.pop();
      order.push_back(u < nodeCount_ ? u : -1 - (u - nodeCount_));
      for (int32_t next : edges_[u])
        if (--waiting[next] == 0)
          ready.emplace(place(next), next);
    }
    if (order.size() == count)
      return true;
    stuck = -1;
    for (int32_t s = 0; s < int32_t(drafts_.size()); ++s)
      if (waiting[nodeCount_ + s] > 0) {
        stuck = s;
        break;
      }
    return false;
  }

private:
  bool exists(int32_t u) const { return u >= nodeCount_ || liveness_.live(u); }
  int64_t place(int32_t u) const {
    return u < nodeCount_ ? 2 * int64_t(flow_.node(u).position)
                          : places_[size_t(u - nodeCount_)];
  }
  /// Where the step stands, or right behind the last step that reads a state
  /// which it consumes: a reader behind it would have to hold the state.
  void findPlaces() {
    std::unordered_map<ValueId, int64_t> lastRead;
    for (const StepDraft& d : drafts_)
      for (ValueId v : d.zs) {
        int64_t& last = lastRead[flow_.canonical(v)];
        last = std::max(last, 2 * int64_t(positionOf(d, flow_)) + 1);
      }
    for (const StepDraft& d : drafts_) {
      places_.push_back(2 * int64_t(positionOf(d, flow_)));
      for (ValueId v : d.xs)
        if (auto read = lastRead.find(flow_.canonical(v));
            read != lastRead.end())
          places_.back() = std::max(places_.back(), read->second);
    }
  }
  /// The unit that makes what node `n` makes; -1 where it is gone.
  int32_t unitOf(NodeId n) const {
    if (liveness_.owner(n) >= 0)
      return nodeCount_ + liveness_.owner(n);
    return liveness_.live(n) ? n : -1;
  }

  void addEdge(int32_t from, int32_t to) {
    if (from < 0 || to < 0 || from == to)
      return;
    edges_[from].push_back(to);
    ++waiting_[to];
  }

  void dependOn(const Value* v, int32_t unit) {
    const NodeId maker = flow_.idOf(v->node());
    if (maker >= 0)
      addEdge(unitOf(maker), unit);
  }

  void addDataEdges() {
    for (NodeId n = 0; n < nodeCount_; ++n) {
      if (!liveness_.live(n))
        continue;
      for (const Value* in : flow_.node(n).node->inputs())
        dependOn(in, n);
      for (ValueId v : flow_.node(n).operands)
        dependOn(flow_.value(v).value, n);
    }
    for (int32_t s = 0; s < int32_t(drafts_.size()); ++s) {
      const StepDraft& d = drafts_[size_t(s)];
      for (const auto* list : {&d.xs, &d.zs, &d.captures, &d.extras})
        for (ValueId v : *list)
          dependOn(flow_.value(v).value, nodeCount_ + s);
      for (NodeId n : d.stream)
        if (flow_.node(n).node->kind() == prim::CallMethod)
          dependOn(flow_.node(n).node->input(0), nodeCount_ + s);
    }
  }

  /// What may not change places: random operators among each other (they draw
  /// from one stream of numbers), effects among each other, and whatever
  /// touches a storage or an attribute that is written.
  void addOrderEdges() {
    int32_t lastRandom = -1, lastEffect = -1;
    std::unordered_map<std::string, std::vector<NodeId>> touching;
    std::unordered_set<std::string> written;
    for (NodeId n = 0; n < nodeCount_; ++n) {
      const NodeInfo& info = flow_.node(n);
      const int32_t unit = unitOf(n);
      if (unit < 0 || info.glue)
        continue;
      if (info.effect == EffectKind::Random) {
        addEdge(lastRandom, unit);
        lastRandom = unit;
      }
      if (info.effect == EffectKind::Effect) {
        addEdge(lastEffect, unit);
        lastEffect = unit;
      }
      for (ValueId v : info.operands) {
        const ValueInfo& value = flow_.value(v);
        std::string key;
        if (value.origin == Origin::Parameter)
          key = attributeKey(value.value);
        else if (value.writtenInPlace)
          key = "%" + std::to_string(value.storage);
        if (key.empty())
          continue;
        touching[key].push_back(n);
        if (info.effect == EffectKind::Effect)
          written.insert(key);
      }
    }
    for (const std::string& key : written)
      for (size_t i = 1; i < touching[key].size(); ++i)
        addEdge(unitOf(touching[key][i - 1]), unitOf(touching[key][i]));
  }

  const std::vector<StepDraft>& drafts_;
  const Dataflow& flow_;
  const Liveness& liveness_;
  const int32_t nodeCount_;
  std::vector<std::vector<int32_t>> edges_;
  std::vector<int32_t> waiting_;
  std::vector<int64_t> places_; ///< of the steps
};

} // namespace

Schedule scheduleSteps(std::vector<StepDraft>& drafts, const Dataflow& flow,
                       std::vector<DraftRefusal>& refusals) {
  for (;;) {
    Schedule schedule;
    const Liveness liveness(drafts, flow);
    int32_t stuck = -1;
    if (Units(drafts, flow, liveness).sort(schedule.order, stuck))
      return schedule;
    TORCH_INTERNAL_ASSERT(stuck >= 0, "the method's own nodes have no order");
    refusals.push_back({drafts[size_t(stuck)].owned.back(), Reason::Untraceable,
                        "", drafts[size_t(stuck)].derivations});
    drafts.erase(drafts.begin() + stuck);
  }
}

} // namespace inv::opt
