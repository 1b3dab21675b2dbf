#include "passes/analysis/Accounting.h"

#include "passes/analysis/Blocks.h"
#include "passes/analysis/Peak.h"
#include "passes/analysis/WhyKept.h"
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

/// One storage that some derivative keeps.
struct Item {
  StorageKey key = 0;
  int64_t amount = 0;
  std::vector<NodeId> savers;  ///< nodes of the top-level block
  const Node* at = nullptr;    ///< the first saver itself, or where it is kept
  bool fromParameters = false; ///< computed from parameters alone
};

class Accountant {
public:
  Accountant(const PassContext& context, const MethodFacts& facts,
             const std::vector<StepOutline>& steps,
             const std::vector<int32_t>& order,
             const std::vector<Refusal>& refusals)
      : context_(context), facts_(facts), flow_(facts.flow), steps_(steps),
        order_(order), why_(facts.rules, refusals),
        stepOf_(flow_.nodes().size(), -1), stays_(flow_.nodes().size()) {
    for (size_t s = 0; s < steps.size(); ++s)
      for (NodeId n : steps[s].nodes)
        stepOf_[size_t(n)] = int32_t(s);
    for (int32_t n : order)
      if (n >= 0)
        stays_[size_t(n)] = true;
  }

  Accounting run() {
    out_.method = context_.method.name;
    out_.inBytes = facts_.run.has_value();
    out_.steps = int64_t(steps_.size());
    blocks_ = blockPaths(flow_, stepOf_);
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
  // ---- which storages are there, or held, whatever plain nodes keep
  StorageKey keyOf(ValueId v) const {
    if (facts_.run)
      return StorageKey(facts_.run->storageOf(flow_.value(v).value));
    return StorageKey(flow_.storage(v)) + 1;
  }
  void findCallers();
  void findHeld();
  void hold(ValueId v, size_t step);

  // ---- the items
  std::vector<Item> itemsOf(const TrainingRun& run) const;
  std::vector<Item> itemsByTable() const;
  void accountForRun();
  void accountByTable();
  void addBefore(const std::vector<Item>& items);
  void sortOut(const std::vector<Item>& items);
  void addNewlyHeld();

  // ---- rows
  void keep(const Item& item, Reason reason, const Node* at, bool byStep);
  BlockRow& blockOf(NodeId n);
  bool computesActivation(NodeId n) const;
  std::string sourceNear(const Node* at) const;
  void finishRows();

  struct Held {
    const Node* at = nullptr;
    NodeId node = -1;
    int64_t amount = 0;
    bool fromParameters = false;
  };

  const PassContext& context_;
  const MethodFacts& facts_;
  const Dataflow& flow_;
  const std::vector<StepOutline>& steps_;
  const std::vector<int32_t>& order_;
  WhyKept why_;
  std::vector<int32_t> stepOf_;
  /// By NodeId. Neither part of a step nor left behind by one: steps run again
  /// what follows from parameters.
  std::vector<bool> stays_;
  std::vector<std::string> blocks_; ///< by NodeId
  std::unordered_set<StorageKey> callers_;
  std::map<StorageKey, Held> held_;
  std::unordered_set<StorageKey> counted_; ///< of items
  std::map<
      std::tuple<Reason, bool, bool, std::string, std::string, std::string>,
      KeptRow>
      rows_;
  std::unordered_map<std::string, BlockRow> blockRows_;
  std::unordered_map<std::string, std::map<Reason, int64_t>> blockReasons_;
  Accounting out_;
};

/// What comes in and goes out the caller has.
void Accountant::findCallers() {
  for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v)
    if (flow_.value(v).graphInput || flow_.value(v).graphOutput)
      callers_.insert(keyOf(v));
  callers_.erase(0);
}

void Accountant::hold(ValueId v, size_t step) {
  const StorageKey key = keyOf(v);
  const ValueInfo& info = flow_.value(flow_.storage(v));
  const bool there =
      facts_.run
          ? key == 0 || facts_.run->isThere(reinterpret_cast<const void*>(key))
          : info.origin == Origin::Parameter || info.origin == Origin::Constant;
  if (there || callers_.count(key))
    return;
  Held held;
  held.node = steps_[step].nodes.back();
  held.at = flow_.node(held.node).node;
  held.amount = facts_.run ? facts_.run->bytesOf(flow_.value(v).value) : 1;
  held.fromParameters = info.origin == Origin::Derived;
  held_.insert({key, held});
}

/// A step holds the states that it makes or reads and that no step consumes:
/// the ends of chains, and what nothing rebuilds.
void Accountant::findHeld() {
  std::vector<size_t> place(steps_.size());
  for (size_t i = 0; i < order_.size(); ++i)
    if (order_[i] < 0)
      place[size_t(-1 - order_[i])] = i;
  // The state itself, that is: where inv::resplit had to copy, a step consumes
  // the copy. By the first one of them; who reads it behind that holds it.
  std::map<std::pair<ValueId, StorageKey>, size_t> consumed;
  for (size_t s = 0; s < steps_.size(); ++s)
    for (ValueId v : steps_[s].consumed) {
      auto [at, fresh] =
          consumed.insert({{flow_.canonical(v), keyOf(v)}, place[s]});
      at->second = std::min(at->second, place[s]);
    }
  for (size_t s = 0; s < steps_.size(); ++s) {
    for (ValueId v : steps_[s].states) {
      auto by = consumed.find({flow_.canonical(v), keyOf(v)});
      if (by == consumed.end() || by->second < place[s])
        hold(v, s);
    }
    for (ValueId v : steps_[s].captures)
      hold(v, s);
  }
}

std::vector<Item> Accountant::itemsOf(const TrainingRun& run) const {
  std::vector<Item> items;
  for (const KeptStorage& kept : run.kept()) {
    Item item;
    item.key = StorageKey(kept.storage);
    item.amount = kept.bytes;
    const ValueId v = kept.value ? flow_.idOf(kept.value) : -1;
    item.fromParameters = v >= 0 && flow_.value(v).origin == Origin::Derived;
    for (const Node* n : kept.savers) {
      item.savers.push_back(flow_.topLevel(n));
      // The first one that stays is to blame.
      if (!item.at || (!stays_[size_t(flow_.topLevel(item.at))] &&
                       stays_[size_t(item.savers.back())]))
        item.at = n;
    }
    items.push_back(std::move(item));
  }
  return items;
}

/// By the table of saved(op): every storage counts 1.
std::vector<Item> Accountant::itemsByTable() const {
  std::vector<Item> items;
  std::unordered_map<ValueId, size_t> index;
  for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n) {
    auto add = [&](StorageKey key) {
      items.emplace_back();
      items.back().key = key;
      items.back().amount = 1;
    };
    auto save = [&](Item& item) {
      item.savers.push_back(n);
      if (!item.at ||
          (!stays_[size_t(flow_.idOf(item.at))] && stays_[size_t(n)]))
        item.at = flow_.node(n).node;
    };
    for (ValueId v : flow_.node(n).saved) {
      auto [at, fresh] = index.insert({flow_.storage(v), items.size()});
      if (fresh)
        add(keyOf(v));
      save(items[at->second]);
    }
    if (flow_.node(n).savedOwn > 0) {
      add(0);
      save(items.back());
    }
  }
  return items;
}

void Accountant::accountForRun() {
  const bool copies = std::any_of(
      flow_.nodes().begin(), flow_.nodes().end(),
      [](const NodeInfo& n) { return n.node->kind() == sym::resplit(); });
  const std::vector<Item> items = itemsOf(*facts_.run);
  if (copies) {
    const TrainingRun written(*context_.method.graph, sampleArguments(context_),
                              Streams::Copied);
    addBefore(itemsOf(written));
    out_.plainPeak = estimatePlainPeak(flow_, written);
  } else {
    addBefore(items);
    out_.plainPeak = estimatePlainPeak(flow_, *facts_.run);
  }
  sortOut(items);
  out_.peak = estimatePeak(flow_, *facts_.run, steps_, order_);
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
    blockOf(flow_.topLevel(item.at)).before += item.amount;
  }
}

void Accountant::sortOut(const std::vector<Item>& items) {
  int64_t total = 0;
  for (const Item& item : items) {
    total += item.amount;
    if (item.key)
      counted_.insert(item.key);
    const NodeId n = flow_.topLevel(item.at);
    if (item.key && callers_.count(item.key))
      keep(item, Reason::CallersValue, item.at, false);
    else if (stays_[size_t(n)])
      keep(item, item.fromParameters ? Reason::FromParameters : why_.of(n),
           item.at, false);
    else if (auto held = held_.find(item.key); item.key && held != held_.end())
      keep(item,
           item.fromParameters ? Reason::FromParameters : Reason::HeldByStep,
           held->second.at, false);
    else
      out_.dropped += item.amount;
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
  const NodeId n = flow_.topLevel(at);
  blockOf(n).after += item.amount;
  blockReasons_[blocks_[size_t(n)]][reason] += item.amount;
}

bool Accountant::computesActivation(NodeId n) const {
  const NodeInfo& info = flow_.node(n);
  return !info.glue && !info.view && info.node->kind().is_aten() &&
         std::any_of(info.results.begin(), info.results.end(),
                     [&](ValueId v) { return flow_.value(v).isActivation(); });
}

/// Traces leave some nodes without a line: then that of the nearest node that
/// reads its result.
std::string Accountant::sourceNear(const Node* at) const {
  std::string source = sourceOf(at);
  constexpr int kMostNodes = 8;
  NodeId n = flow_.topLevel(at);
  for (int i = 0; source.empty() && i < kMostNodes; ++i) {
    const auto& results = flow_.node(n).results;
    auto read = std::find_if(results.begin(), results.end(), [&](ValueId v) {
      return !flow_.value(v).readers.empty();
    });
    if (read == results.end())
      break;
    n = flow_.value(*read).readers.front();
    source = sourceOf(flow_.node(n).node);
  }
  return source;
}

BlockRow& Accountant::blockOf(NodeId n) {
  const std::string& path = blocks_[size_t(n)];
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
  for (const StepOutline& step : steps_)
    ++blockOf(step.nodes.back()).steps;
  for (NodeId n = 0; n < NodeId(stepOf_.size()); ++n)
    if (stepOf_[size_t(n)] >= 0)
      blockOf(n).rewritten = true;
    else if (computesActivation(n))
      blockOf(n);
  for (const auto& [path, reasons] : blockReasons_) {
    std::vector<std::pair<int64_t, Reason>> sorted;
    for (const auto& [reason, amount] : reasons)
      sorted.emplace_back(-amount, reason);
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [amount, reason] : sorted)
      blockRows_[path].reasons.push_back(reason);
  }
  std::vector<size_t> inOrder(blocks_.size());
  for (size_t n = 0; n < inOrder.size(); ++n)
    inOrder[size_t(flow_.nodes()[n].position)] = n;
  std::unordered_set<std::string> told;
  for (size_t n : inOrder)
    if (auto row = blockRows_.find(blocks_[n]);
        row != blockRows_.end() && told.insert(blocks_[n]).second)
      out_.blocks.push_back(row->second);
}

} // namespace

Accounting account(const PassContext& context, const MethodFacts& facts,
                   const std::vector<StepOutline>& steps,
                   const std::vector<int32_t>& order,
                   const std::vector<Refusal>& refusals) {
  return Accountant(context, facts, steps, order, refusals).run();
}

} // namespace inv::opt
