#include "passes/analysis/Accounting.h"

#include "passes/analysis/Blocks.h"
#include "passes/analysis/HeldStates.h"
#include "passes/analysis/Peak.h"
#include "passes/analysis/WhyKept.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Remarks.h"
#include "passes/support/Symbols.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// Storages by identity: their address in a run; without one, the value whose
/// storage it is.
using StorageKey = uintptr_t;

/// A node of one of the blocks: its number among those of all of them, one
/// behind the other.
using Place = size_t;

/// One storage that some derivative keeps.
struct Item {
  StorageKey key = 0;
  int64_t amount = 0;
  const Node* at = nullptr;    ///< the first saver itself, or where it is kept
  bool fromParameters = false; ///< computed from parameters alone
};

class Accountant {
public:
  Accountant(const PassContext& context, const MethodFacts& facts,
             const std::vector<AccountedBlock>& blocks,
             const std::unordered_set<const Value*>& leaving)
      : context_(context), facts_(facts), blocks_(blocks), leaving_(leaving) {
    for (size_t b = 0; b < blocks.size(); ++b) {
      const Dataflow& flow = blocks[b].rules.flow;
      flows_.push_back(&flow);
      index_[&flow.block()] = b;
      bases_.push_back(stepOf_.size());
      stepOf_.resize(stepOf_.size() + flow.nodes().size(), -1);
      stays_.resize(stepOf_.size());
      for (const StepOutline& step : blocks[b].steps) {
        for (NodeId n : step.nodes)
          stepOf_[bases_[b] + size_t(n)] = int32_t(out_.steps);
        ++out_.steps;
      }
      for (int32_t n : blocks[b].order)
        if (n >= 0)
          stays_[bases_[b] + size_t(n)] = true;
      why_.emplace_back(blocks[b].rules, blocks[b].refusals);
    }
  }

  Accounting run() {
    out_.method = context_.method.name;
    out_.inBytes = facts_.run.has_value();
    paths_ = blockPaths(flows_, stepOf_);
    findCallers();
    findHeld();
    if (facts_.run)
      accountForRun();
    else
      accountByTable();
    addNewlyHeld();
    finishRows();
    return std::move(out_);
  }

private:
  // ---- places
  Place placeOf(size_t block, NodeId n) const {
    return bases_[block] + size_t(n);
  }
  /// Of the node, or of the one around it that is in a block of ours.
  Place placeOf(const Node* n) const {
    auto block = index_.find(n->owningBlock());
    while (block == index_.end()) {
      n = n->owningBlock()->owningNode();
      block = index_.find(n->owningBlock());
    }
    return placeOf(block->second, flows_[block->second]->idOf(n));
  }
  size_t blockAt(Place place) const {
    return size_t(std::upper_bound(bases_.begin(), bases_.end(), place) -
                  bases_.begin()) -
           1;
  }
  const NodeInfo& nodeAt(Place place) const {
    const size_t b = blockAt(place);
    return flows_[b]->node(NodeId(place - bases_[b]));
  }
  Reason whyAt(Place place) const {
    const size_t b = blockAt(place);
    return why_[b].of(NodeId(place - bases_[b]));
  }
  /// Its blocks are accounted for themselves.
  bool isEntered(const NodeInfo& n) const {
    return std::any_of(n.node->blocks().begin(), n.node->blocks().end(),
                       [&](const Block* b) { return index_.count(b) != 0; });
  }

  // ---- which storages are there, or held, whatever plain nodes keep
  StorageKey keyOf(size_t block, ValueId v, const BlockRun* run) const;
  void findCallers();
  void findHeld();
  void hold(size_t block, size_t step, ValueId v, const BlockRun* run);
  void holdCaptures(const BlockRun& run);

  // ---- the items
  std::vector<Item> itemsOf(const TrainingRun& run) const;
  std::vector<Item> itemsByTable() const;
  void accountForRun();
  void accountByTable();
  void addBefore(const std::vector<Item>& items);
  void sortOut(const std::vector<Item>& items);
  void addNewlyHeld();
  void estimatePeaks();

  // ---- rows
  void keep(const Item& item, Reason reason, const Node* at, bool byStep);
  BlockRow& rowOf(Place place);
  bool computesActivation(Place place) const;
  std::string sourceNear(const Node* at) const;
  void addRowsInOrder(size_t block, std::unordered_set<std::string>& told);
  void finishRows();

  struct Held {
    const Node* at = nullptr;
    int64_t amount = 0;
    bool fromParameters = false;
  };

  const PassContext& context_;
  const MethodFacts& facts_;
  const std::vector<AccountedBlock>& blocks_;
  const std::unordered_set<const Value*>& leaving_;
  std::vector<const Dataflow*> flows_; ///< of the blocks
  std::unordered_map<const Block*, size_t> index_;
  std::vector<Place> bases_; ///< of the blocks: the first place
  std::vector<WhyKept> why_;
  std::vector<int32_t> stepOf_; ///< by place
  /// By place. Neither part of a step nor left behind by one: steps run again
  /// what follows from parameters.
  std::vector<bool> stays_;
  std::vector<std::string> paths_; ///< by place: of the module
  std::unordered_set<StorageKey> callers_;
  std::map<StorageKey, Held> held_;
  std::unordered_set<StorageKey> counted_; ///< of items
  std::unordered_set<const void*> dropped_;
  /// Of a node of the method: what steps inside hold, and run again.
  std::unordered_map<NodeId, InsideCost> inside_;
  std::map<
      std::tuple<Reason, bool, bool, std::string, std::string, std::string>,
      KeptRow>
      rows_;
  std::unordered_map<std::string, BlockRow> blockRows_;
  std::unordered_map<std::string, std::map<Reason, int64_t>> blockReasons_;
  Accounting out_;
};

/// Without a run: of what lies around a block, where it lies.
StorageKey Accountant::keyOf(size_t block, ValueId v,
                             const BlockRun* run) const {
  if (run) {
    const auto found = run->storages.find(flows_[block]->value(v).value);
    return found == run->storages.end() ? 0 : StorageKey(found->second);
  }
  const Dataflow* flow = flows_[block];
  v = flow->storage(v);
  for (const Dataflow* outer = flow->outer(); outer; outer = flow->outer()) {
    const ValueId around = outer->idOf(flow->value(v).value);
    if (around < 0)
      break;
    flow = outer;
    v = flow->storage(around);
  }
  return reinterpret_cast<StorageKey>(flow->value(v).value);
}

/// What comes in and goes out the caller has.
void Accountant::findCallers() {
  const BlockRun* run = facts_.run ? &facts_.run->blocks() : nullptr;
  for (ValueId v = 0; v < ValueId(flows_[0]->values().size()); ++v)
    if (flows_[0]->value(v).keptAround)
      callers_.insert(keyOf(0, v, run));
  callers_.erase(0);
}

void Accountant::hold(size_t block, size_t step, ValueId v,
                      const BlockRun* run) {
  const Dataflow& flow = *flows_[block];
  const StorageKey key = keyOf(block, v, run);
  const ValueInfo& info = flow.value(flow.storage(v));
  const bool there =
      run ? key == 0 || facts_.run->isThere(reinterpret_cast<const void*>(key))
          : info.origin == Origin::Parameter || info.origin == Origin::Constant;
  if (there || callers_.count(key))
    return;
  Held held;
  held.at = flow.node(blocks_[block].steps[step].nodes.back()).node;
  held.amount =
      run ? facts_.run->bytesOf(reinterpret_cast<const void*>(key)) : 1;
  held.fromParameters = info.origin == Origin::Derived;
  held_.insert({key, held});
}

/// Of every step that a run of a block executes.
void Accountant::holdCaptures(const BlockRun& run) {
  if (const auto block = index_.find(run.block); block != index_.end()) {
    const auto& steps = blocks_[block->second].steps;
    for (size_t s = 0; s < steps.size(); ++s)
      for (ValueId v : steps[s].captures)
        hold(block->second, s, v, &run);
  }
  for (const BlockRun& inner : run.inner)
    holdCaptures(inner);
}

/// A step holds the states that it makes or reads and that no step consumes:
/// the ends of chains, and what nothing rebuilds.
void Accountant::findHeld() {
  const BlockRun* call = facts_.run ? &facts_.run->blocks() : nullptr;
  for (const HeldState& state : heldStates(blocks_, leaving_, call))
    hold(state.block, state.step, state.value, state.run);
  if (call)
    return holdCaptures(*call);
  for (size_t b = 0; b < blocks_.size(); ++b)
    for (size_t s = 0; s < blocks_[b].steps.size(); ++s)
      for (ValueId v : blocks_[b].steps[s].captures)
        hold(b, s, v, nullptr);
}

std::vector<Item> Accountant::itemsOf(const TrainingRun& run) const {
  std::vector<Item> items;
  for (const KeptStorage& kept : run.kept()) {
    Item item;
    item.key = StorageKey(kept.storage);
    item.amount = kept.bytes;
    if (kept.value && kept.value->node()->kind() != prim::Param) {
      const size_t b = blockAt(placeOf(kept.value->node()));
      const ValueId v = flows_[b]->idOf(kept.value);
      item.fromParameters =
          v >= 0 && flows_[b]->value(v).origin == Origin::Derived;
    }
    // The first one that stays is to blame.
    for (const Node* n : kept.savers)
      if (!item.at || (!stays_[placeOf(item.at)] && stays_[placeOf(n)]))
        item.at = n;
    items.push_back(std::move(item));
  }
  return items;
}

/// By the table of saved(op): every storage counts 1.
std::vector<Item> Accountant::itemsByTable() const {
  std::vector<Item> items;
  std::unordered_map<StorageKey, size_t> index;
  for (Place place = 0; place < stepOf_.size(); ++place) {
    const NodeInfo& info = nodeAt(place);
    if (isEntered(info))
      continue;
    auto add = [&](StorageKey key) {
      items.emplace_back();
      items.back().key = key;
      items.back().amount = 1;
      items.back().at = info.node;
    };
    for (ValueId v : info.saved) {
      const StorageKey key = keyOf(blockAt(place), v, nullptr);
      auto [at, fresh] = index.insert({key, items.size()});
      if (fresh)
        add(key);
      else if (Item& item = items[at->second];
               !stays_[placeOf(item.at)] && stays_[place])
        item.at = info.node;
    }
    if (info.savedOwn > 0)
      add(0);
  }
  return items;
}

void Accountant::accountForRun() {
  bool copies = false;
  for (Node* n : allNodes(context_.method.graph->block()))
    copies |= n->kind() == sym::resplit();
  const std::vector<Item> items = itemsOf(*facts_.run);
  if (copies) {
    const TrainingRun written(*context_.method.graph, sampleArguments(context_),
                              Streams::Copied);
    addBefore(itemsOf(written));
    out_.plainPeak = estimatePlainPeak(*flows_[0], written);
  } else {
    addBefore(items);
    out_.plainPeak = estimatePlainPeak(*flows_[0], *facts_.run);
  }
  sortOut(items);
  estimatePeaks();
  std::unordered_set<std::string> silent;
  for (const Node* n : facts_.run->silent())
    if (silent.insert(n->kind().toQualString()).second)
      out_.silent.emplace_back(n->kind().toQualString());
}

void Accountant::accountByTable() {
  const std::vector<Item> items = itemsByTable();
  addBefore(items);
  sortOut(items);
}

void Accountant::addBefore(const std::vector<Item>& items) {
  for (const Item& item : items) {
    out_.before += item.amount;
    rowOf(placeOf(item.at)).before += item.amount;
  }
}

void Accountant::sortOut(const std::vector<Item>& items) {
  int64_t total = 0;
  for (const Item& item : items) {
    total += item.amount;
    if (item.key)
      counted_.insert(item.key);
    const Place place = placeOf(item.at);
    if (item.key && callers_.count(item.key))
      keep(item, Reason::CallersValue, item.at, false);
    else if (stays_[place])
      keep(item, item.fromParameters ? Reason::FromParameters : whyAt(place),
           item.at, false);
    else if (auto held = held_.find(item.key); item.key && held != held_.end())
      keep(item,
           item.fromParameters ? Reason::FromParameters : Reason::HeldByStep,
           held->second.at, false);
    else {
      out_.dropped += item.amount;
      dropped_.insert(reinterpret_cast<const void*>(item.key));
    }
  }
  out_.streams = out_.before - total;
}

/// What no derivative kept, and a step holds.
void Accountant::addNewlyHeld() {
  for (const auto& [key, held] : held_) {
    if (counted_.count(key))
      continue;
    Item item;
    item.key = key;
    item.amount = held.amount;
    keep(item,
         held.fromParameters ? Reason::FromParameters : Reason::HeldByStep,
         held.at, true);
  }
}

void Accountant::keep(const Item& item, Reason reason, const Node* at,
                      bool byStep) {
  KeptRow row;
  row.reason = reason;
  row.byStep = byStep;
  row.callers = item.key && callers_.count(item.key);
  row.module = modulePathOf(at);
  row.source = sourceNear(at);
  row.op = at->kind().toUnqualString();
  row.node = oneLine(at);
  KeptRow& sum = rows_
                     .insert({{reason, byStep, row.callers, row.module,
                               row.source, row.op},
                              row})
                     .first->second;
  sum.amount += item.amount;
  ++sum.storages;
  out_.after += item.amount;
  const Place place = placeOf(at);
  rowOf(place).after += item.amount;
  blockReasons_[paths_[place]][reason] += item.amount;
}

/// With what steps inside of ifs and loops hold, and bring back.
void Accountant::estimatePeaks() {
  std::unordered_map<NodeId, std::unordered_map<int32_t, InsideCost>> steps;
  auto costOf = [&](const Node* at) -> InsideCost* {
    const Place place = placeOf(at);
    if (blockAt(place) == 0 || stepOf_[place] < 0)
      return nullptr;
    return &steps[flows_[0]->topLevel(at)][stepOf_[place]];
  };
  for (const auto& [key, held] : held_)
    if (InsideCost* cost = costOf(held.at); cost && !counted_.count(key))
      cost->held += held.amount;
  for (const KeptStorage& kept : facts_.run->kept())
    if (dropped_.count(kept.storage))
      if (InsideCost* cost = costOf(kept.savers.front()))
        cost->again += kept.bytes;
  // One execution of one step at a time.
  std::unordered_map<const Block*, int64_t> runs;
  const std::function<void(const BlockRun&)> count = [&](const BlockRun& run) {
    ++runs[run.block];
    for (const BlockRun& inner : run.inner)
      count(inner);
  };
  count(facts_.run->blocks());
  std::unordered_map<int32_t, int64_t> executions;
  for (Place place = 0; place < stepOf_.size(); ++place)
    if (stepOf_[place] >= 0)
      executions[stepOf_[place]] = runs[&flows_[blockAt(place)]->block()];
  for (const auto& [n, costs] : steps)
    for (const auto& [step, cost] : costs) {
      inside_[n].held += cost.held;
      inside_[n].again =
          std::max(inside_[n].again,
                   cost.again / std::max<int64_t>(executions[step], 1));
    }
  out_.peak = estimatePeak(*flows_[0], *facts_.run, blocks_[0].steps,
                           blocks_[0].order, dropped_, inside_);
}

bool Accountant::computesActivation(Place place) const {
  const NodeInfo& info = nodeAt(place);
  const Dataflow& flow = *flows_[blockAt(place)];
  return !info.glue && !info.view && info.node->kind().is_aten() &&
         std::any_of(info.results.begin(), info.results.end(),
                     [&](ValueId v) { return flow.value(v).isActivation(); });
}

/// Traces leave some nodes without a line: then that of the nearest node that
/// reads its result.
std::string Accountant::sourceNear(const Node* at) const {
  std::string source = sourceOf(at);
  constexpr int kMostNodes = 8;
  const Place place = placeOf(at);
  const Dataflow& flow = *flows_[blockAt(place)];
  NodeId n = NodeId(place - bases_[blockAt(place)]);
  for (int i = 0; source.empty() && i < kMostNodes; ++i) {
    const auto& results = flow.node(n).results;
    auto read = std::find_if(results.begin(), results.end(), [&](ValueId v) {
      return !flow.value(v).readers.empty();
    });
    if (read == results.end())
      break;
    n = flow.value(*read).readers.front();
    source = sourceOf(flow.node(n).node);
  }
  return source;
}

BlockRow& Accountant::rowOf(Place place) {
  const std::string& path = paths_[place];
  BlockRow& row = blockRows_[path];
  row.module = path;
  return row;
}

void Accountant::finishRows() {
  for (auto& [key, row] : rows_)
    out_.kept.push_back(std::move(row));
  std::stable_sort(
      out_.kept.begin(), out_.kept.end(),
      [](const KeptRow& a, const KeptRow& b) { return a.amount > b.amount; });
  for (size_t b = 0; b < blocks_.size(); ++b)
    for (const StepOutline& step : blocks_[b].steps)
      ++rowOf(placeOf(b, step.nodes.back())).steps;
  for (Place place = 0; place < stepOf_.size(); ++place)
    if (stepOf_[place] >= 0)
      rowOf(place).rewritten = true;
    else if (computesActivation(place))
      rowOf(place);
  for (const auto& [path, reasons] : blockReasons_) {
    std::vector<std::pair<int64_t, Reason>> sorted;
    for (const auto& [reason, amount] : reasons)
      sorted.emplace_back(-amount, reason);
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [amount, reason] : sorted)
      blockRows_[path].reasons.push_back(reason);
  }
  std::unordered_set<std::string> told;
  addRowsInOrder(0, told);
}

/// In the order of the method, blocks inside where their node stands.
void Accountant::addRowsInOrder(size_t block,
                                std::unordered_set<std::string>& told) {
  const auto& nodes = flows_[block]->nodes();
  std::vector<size_t> inOrder(nodes.size());
  for (size_t n = 0; n < inOrder.size(); ++n)
    inOrder[size_t(nodes[n].position)] = n;
  for (size_t n : inOrder) {
    const std::string& path = paths_[placeOf(block, NodeId(n))];
    if (auto row = blockRows_.find(path);
        row != blockRows_.end() && told.insert(path).second)
      out_.blocks.push_back(row->second);
    for (const Block* inner : nodes[n].node->blocks())
      if (auto found = index_.find(inner); found != index_.end())
        addRowsInOrder(found->second, told);
  }
}

} // namespace

Accounting account(const PassContext& context, const MethodFacts& facts,
                   const std::vector<AccountedBlock>& blocks,
                   const std::unordered_set<const Value*>& leaving) {
  return Accountant(context, facts, blocks, leaving).run();
}

} // namespace inv::opt
