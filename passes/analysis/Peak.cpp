// The estimate replays the schedule. Forward: a tensor is alive from the node
// that makes it to its last reader, or, where a derivative or a step keeps it,
// until backward has passed that one. Backward, in reverse: a node's gradients
// of operands come to life, then that of its result ends, and with it what the
// node kept. A step first evaluates its conditioner again, which brings back
// what the nodes in it keep, and its inputs, which live on until the step that
// made them is through.
#include "passes/analysis/Peak.h"

#include "passes/support/Remarks.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Storage = const void*;
constexpr int kNever = std::numeric_limits<int>::max();

class Replay {
public:
  Replay(const Dataflow& flow, const TrainingRun& run,
         const std::vector<StepOutline>& steps,
         const std::vector<int32_t>& order,
         const std::unordered_set<const void*>& dropped,
         const std::unordered_map<NodeId, InsideCost>& inside)
      : flow_(flow), run_(run), steps_(steps), dropped_(dropped),
        inside_(inside), unitOf_(flow.nodes().size(), -1) {
    for (int32_t entry : order)
      addUnit(entry);
    findStorages();
    findKept();
  }

  Peak estimate() {
    forward();
    backward();
    return peak_;
  }

private:
  struct Unit {
    std::vector<NodeId> nodes;
    int step = -1;
    std::vector<Storage> keeps; ///< until its backward
    int64_t keepsOwn = 0;       ///< masks and the like
    int64_t again = 0;          ///< what its nodes keep when they are run again
  };
  /// Positions are those of nodes in the schedule.
  struct Life {
    int64_t bytes = 0;
    int made = kNever, lastRead = -1;
    int64_t keepers = 0;
    bool isCallers = false;
  };

  Storage storageOf(ValueId v) const {
    const Storage s = run_.storageOf(flow_.value(v).value);
    return s && !run_.isThere(s) ? s : nullptr;
  }

  void addUnit(int32_t entry) {
    Unit unit;
    if (entry < 0) {
      unit.step = -1 - entry;
      unit.nodes = steps_[size_t(unit.step)].nodes;
    } else {
      unit.nodes = {entry};
      if (auto cost = inside_.find(entry); cost != inside_.end()) {
        unit.keepsOwn = cost->second.held;
        unit.again = cost->second.again;
      }
    }
    for (NodeId n : unit.nodes)
      unitOf_[size_t(n)] = int32_t(units_.size());
    units_.push_back(std::move(unit));
  }

  void findStorages() {
    int position = 0;
    for (const ValueInfo& v : flow_.values())
      if (v.graphInput)
        if (const Storage s = storageOf(flow_.idOf(v.value)))
          lives_[s].isCallers = true;
    for (const Unit& unit : units_)
      for (NodeId n : unit.nodes) {
        for (ValueId v : flow_.node(n).operands)
          if (const Storage s = storageOf(v))
            lives_[s].lastRead = position;
        for (ValueId v : flow_.node(n).results)
          if (const Storage s = storageOf(v)) {
            Life& life = lives_[s];
            life.bytes = run_.bytesOf(flow_.value(v).value);
            life.made = std::min(life.made, position);
            if (flow_.value(v).graphOutput)
              life.lastRead = kNever;
          }
        ++position;
      }
  }

  void keep(Unit& unit, Storage s) {
    if (std::find(unit.keeps.begin(), unit.keeps.end(), s) != unit.keeps.end())
      return;
    unit.keeps.push_back(s);
    ++lives_[s].keepers;
  }

  void findKept() {
    for (const KeptStorage& kept : run_.kept()) {
      std::unordered_set<int32_t> units;
      for (const Node* n : kept.savers)
        if (const NodeId top = flow_.topLevel(n);
            top >= 0 && unitOf_[size_t(top)] >= 0)
          units.insert(unitOf_[size_t(top)]);
      for (int32_t u : units) {
        Unit& unit = units_[size_t(u)];
        auto life = lives_.find(kept.storage);
        if (unit.step >= 0)
          unit.again += kept.bytes;
        else if (dropped_.count(kept.storage))
          continue; // by steps inside
        else if (life == lives_.end() || life->second.made == kNever)
          unit.keepsOwn += life == lives_.end() ? kept.bytes : 0;
        else
          keep(unit, kept.storage);
      }
    }
    std::unordered_set<ValueId> consumed;
    for (const StepOutline& step : steps_)
      for (ValueId v : step.consumed)
        consumed.insert(flow_.canonical(v));
    for (Unit& unit : units_)
      if (unit.step >= 0)
        for (const auto* states :
             {&steps_[size_t(unit.step)].made, &steps_[size_t(unit.step)].read})
          for (ValueId v : *states)
            if (const Storage s = storageOf(v);
                s && !dropped_.count(s) && !consumed.count(flow_.canonical(v)))
              keep(unit, s);
  }

  void reach(int64_t now, const Unit& unit, bool inBackward) {
    if (now <= peak_.bytes)
      return;
    const Node* at = flow_.node(unit.nodes.back()).node;
    peak_.bytes = now;
    peak_.inBackward = inBackward;
    peak_.module = modulePathOf(at);
    peak_.source = sourceOf(at);
    peak_.op = at->kind().toUnqualString();
  }

  void forward() {
    std::vector<std::vector<Storage>> made(flow_.nodes().size() + 1);
    std::vector<std::vector<Storage>> ends(flow_.nodes().size() + 1);
    for (const auto& [s, life] : lives_) {
      if (life.isCallers || life.made == kNever)
        continue;
      made[size_t(life.made)].push_back(s);
      if (life.keepers == 0 && life.lastRead != kNever)
        ends[size_t(std::max(life.lastRead, life.made))].push_back(s);
    }
    size_t position = 0;
    for (const Unit& unit : units_) {
      for (size_t i = 0; i < unit.nodes.size(); ++i, ++position) {
        for (Storage s : made[position])
          now_ += lives_[s].bytes;
        reach(now_, unit, false);
        for (Storage s : ends[position])
          now_ -= lives_[s].bytes;
      }
      now_ += unit.keepsOwn;
      reach(now_, unit, false);
    }
  }

  /// Gradients are counted for storages: those of views are views.
  void addGradient(ValueId v) {
    const ValueId root = flow_.storage(v);
    const ValueInfo& info = flow_.value(root);
    if (!info.isActivation() || !info.asksGradient || info.graphInput ||
        !gradients_.insert(root).second)
      return;
    now_ += std::max<int64_t>(info.bytes, 0);
  }

  void backward() {
    for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v)
      if (flow_.value(v).graphOutput)
        addGradient(v);
    for (size_t u = units_.size(); u-- > 0;)
      backwardOf(units_[u]);
  }

  void backwardOf(Unit& unit) {
    for (auto n = unit.nodes.rbegin(); n != unit.nodes.rend(); ++n)
      for (ValueId v : flow_.node(*n).operands)
        addGradient(v);
    int64_t rebuilt = 0;
    if (unit.step >= 0)
      for (ValueId v : steps_[size_t(unit.step)].consumed)
        if (const Storage s = storageOf(v); s && rebuilt_.insert(s).second)
          rebuilt += lives_[s].bytes;
    now_ += rebuilt;
    reach(now_ + unit.again, unit, true);
    now_ -= unit.keepsOwn;
    for (Storage s : unit.keeps)
      if (Life& life = lives_[s];
          --life.keepers == 0 && !life.isCallers && life.lastRead != kNever)
        now_ -= life.bytes;
    for (NodeId n : unit.nodes)
      for (ValueId v : flow_.node(n).results) {
        if (flow_.storage(v) == v && gradients_.erase(v))
          now_ -= std::max<int64_t>(flow_.value(v).bytes, 0);
        if (const Storage s = storageOf(v); s && rebuilt_.erase(s))
          now_ -= lives_[s].bytes;
      }
  }

  const Dataflow& flow_;
  const TrainingRun& run_;
  const std::vector<StepOutline>& steps_;
  const std::unordered_set<const void*>& dropped_;
  const std::unordered_map<NodeId, InsideCost>& inside_;
  std::vector<Unit> units_;
  std::vector<int32_t> unitOf_; ///< by NodeId
  std::unordered_map<Storage, Life> lives_;
  std::unordered_set<ValueId> gradients_; ///< alive, by storage
  std::unordered_set<Storage> rebuilt_;   ///< alive again in backward
  int64_t now_ = 0;
  Peak peak_;
};

} // namespace

Peak estimatePeak(const Dataflow& flow, const TrainingRun& run,
                  const std::vector<StepOutline>& steps,
                  const std::vector<int32_t>& order,
                  const std::unordered_set<const void*>& dropped,
                  const std::unordered_map<NodeId, InsideCost>& inside) {
  return Replay(flow, run, steps, order, dropped, inside).estimate();
}

Peak estimatePlainPeak(const Dataflow& flow, const TrainingRun& run) {
  std::vector<int32_t> order(flow.nodes().size());
  for (size_t n = 0; n < order.size(); ++n)
    order[n] = int32_t(n);
  return estimatePeak(flow, run, {}, order, {}, {});
}

} // namespace inv::opt
