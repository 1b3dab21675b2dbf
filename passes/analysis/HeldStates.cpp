#include "passes/analysis/HeldStates.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <optional>
#include <unordered_map>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A state, as the runtime's slots stand for it.
struct State {
  HeldState holder;
  bool taken = false;
};
using StateId = size_t;
using States = std::unordered_map<const Value*, StateId>;

/// Of the values of a block that runs.
struct Known {
  States made;   ///< the very tensors: a step made them
  States newest; ///< what the last step that read the value handed back
};

class Follower {
public:
  Follower(const std::vector<AccountedBlock>& blocks,
           const std::unordered_set<const Value*>& leaving)
      : blocks_(blocks), leaving_(leaving) {
    for (size_t b = 0; b < blocks.size(); ++b)
      index_[&blocks[b].rules.flow.block()] = b;
  }

  std::vector<HeldState> run(const BlockRun* call) {
    follow(0, call, {}, {});
    std::vector<HeldState> held;
    for (const State& state : states_)
      if (!state.taken)
        held.push_back(state.holder);
    return held;
  }

private:
  using Results = std::vector<std::optional<StateId>>;

  /// What the block hands on. `around`: what its surroundings know; `given`: of
  /// the block's own inputs.
  Results follow(size_t block, const BlockRun* run, const Known& around,
                 const States& given) {
    const AccountedBlock& b = blocks_[block];
    Known known = around;
    for (const auto& [v, state] : given)
      known.made[v] = state;
    States passed; // by steps of this block
    for (int32_t unit : b.order) {
      if (unit < 0)
        followStep(block, size_t(-1 - unit), run, known, passed);
      else
        enter(b.rules.flow.node(unit).node, run, known);
    }
    Results results;
    for (const Value* out : b.rules.flow.block().outputs()) {
      const auto newest = passed.find(out);
      if (newest != passed.end() && !leaving_.count(out)) {
        results.emplace_back(newest->second);
        continue;
      }
      results.push_back(lookUp(known.made, b.rules.flow, out));
    }
    return results;
  }

  /// A part that inv::resplit handed on is what it was.
  static std::optional<StateId> lookUp(const States& states,
                                       const Dataflow& flow, const Value* v) {
    auto found = states.find(v);
    if (const ValueId id = flow.idOf(v); found == states.end() && id >= 0)
      found = states.find(flow.value(flow.canonical(id)).value);
    return found == states.end() ? std::nullopt
                                 : std::optional<StateId>(found->second);
  }

  static bool isCopied(const Dataflow& flow, ValueId v, const BlockRun* run) {
    const Value* own = flow.value(v).value;
    const Value* part = flow.value(flow.canonical(v)).value;
    if (!run || own == part)
      return false;
    const auto a = run->storages.find(own), c = run->storages.find(part);
    return a != run->storages.end() && c != run->storages.end() &&
           a->second != c->second;
  }

  void followStep(size_t block, size_t step, const BlockRun* run, Known& known,
                  States& passed) {
    const Dataflow& flow = blocks_[block].rules.flow;
    const StepOutline& outline = blocks_[block].steps[step];
    auto stateOf = [&](ValueId v) -> std::optional<StateId> {
      const Value* value = flow.value(v).value;
      // Where inv::resplit had to copy, it is another state.
      const bool copied = isCopied(flow, v, run);
      for (const States* states : {&known.newest, &known.made}) {
        if (auto found = states->find(value); found != states->end())
          return found->second;
        if (const auto part = lookUp(*states, flow, value); part && !copied)
          return part;
      }
      return std::nullopt;
    };
    auto hold = [&](ValueId v) {
      states_.push_back({{block, step, v, run}, false});
      return states_.size() - 1;
    };
    for (ValueId v : outline.read) {
      const Value* value = flow.value(v).value;
      std::optional<StateId> state = stateOf(v);
      if (!state || states_[*state].taken)
        state = hold(v);
      known.newest[value] = passed[value] = *state;
    }
    for (ValueId v : outline.consumed) {
      const bool isRead = std::find(outline.read.begin(), outline.read.end(),
                                    v) != outline.read.end();
      if (const auto state = stateOf(v); state && !isRead)
        states_[*state].taken = true;
    }
    for (ValueId v : outline.made)
      known.made[flow.value(v).value] = hold(v);
  }

  /// Runs the blocks of an if or a loop.
  void enter(const Node* node, const BlockRun* run, Known& known) {
    if (std::none_of(node->blocks().begin(), node->blocks().end(),
                     [&](const Block* b) { return index_.count(b) != 0; }))
      return;
    std::vector<std::pair<size_t, const BlockRun*>> runs;
    if (run) {
      for (const BlockRun& inner : run->inner)
        if (inner.block->owningNode() == node && index_.count(inner.block))
          runs.emplace_back(index_.at(inner.block), &inner);
    } else {
      for (const Block* b : node->blocks())
        if (index_.count(b))
          runs.emplace_back(index_.at(b), nullptr);
    }
    if (node->kind() == prim::Loop)
      return followLoop(node, runs, known);
    for (const auto& [block, inner] : runs) {
      const Results results = follow(block, inner, known, {});
      for (size_t i = 0; i < results.size(); ++i)
        if (results[i])
          known.made[node->output(i)] = *results[i];
    }
  }

  void followLoop(const Node* loop,
                  const std::vector<std::pair<size_t, const BlockRun*>>& runs,
                  Known& known) {
    const Block* body = loop->blocks().at(0);
    Results carried;
    for (size_t i = 2; i < loop->inputs().size(); ++i) {
      const Value* v = loop->input(i);
      const auto newest = known.newest.find(v);
      const auto made = known.made.find(v);
      if (newest != known.newest.end() && !leaving_.count(v))
        carried.emplace_back(newest->second);
      else if (made != known.made.end())
        carried.emplace_back(made->second);
      else
        carried.emplace_back();
    }
    for (const auto& [block, inner] : runs) {
      States given;
      for (size_t i = 0; i < carried.size(); ++i)
        if (carried[i])
          given[body->inputs().at(i + 1)] = *carried[i];
      const size_t before = states_.size();
      const Results results = follow(block, inner, known, given);
      carried.assign(results.begin() + 1, results.end());
      if (!inner)
        goOn(block, before, carried);
    }
    for (size_t i = 0; i < carried.size(); ++i)
      if (carried[i])
        known.made[loop->output(i)] = *carried[i];
  }

  /// The body was followed once: what it takes of what it is given, the next
  /// iteration takes of what it handed on.
  void goOn(size_t block, size_t before, const Results& carried) {
    const Dataflow& flow = blocks_[block].rules.flow;
    for (size_t i = 0; i < carried.size(); ++i) {
      if (!carried[i] || *carried[i] < before)
        continue;
      const ValueId in = flow.idOf(flow.block().inputs().at(i + 1));
      for (const StepOutline& step : blocks_[block].steps)
        for (ValueId x : step.consumed)
          if (flow.canonical(x) == flow.canonical(in))
            states_[*carried[i]].taken = true;
    }
  }

  const std::vector<AccountedBlock>& blocks_;
  const std::unordered_set<const Value*>& leaving_;
  std::unordered_map<const Block*, size_t> index_;
  std::vector<State> states_;
};

} // namespace

std::vector<HeldState>
heldStates(const std::vector<AccountedBlock>& blocks,
           const std::unordered_set<const Value*>& leaving,
           const BlockRun* call) {
  return Follower(blocks, leaving).run(call);
}

} // namespace inv::opt
