#include "passes/transforms/BlockPlan.h"

#include "passes/analysis/Leaving.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>
#include <ATen/ops/sub.h>
#include <torch/csrc/jit/ir/ir.h>

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// On the sample inputs, does the module's inverse give back what went in?
bool annotationHolds(const Node* n, const ValueMap& env, double& error) {
  std::vector<c10::IValue> outputs;
  const c10::IValue& y = env.at(n->output());
  if (y.isTuple())
    for (const c10::IValue& element : y.toTupleRef().elements())
      outputs.push_back(element);
  else
    outputs.push_back(y);
  at::NoGradGuard noGrad;
  Stack stack{env.at(n->input(0))};
  stack.insert(stack.end(), outputs.begin(), outputs.end());
  stack[0].toObject()->type()->getMethod("inverse").run(stack);
  std::vector<at::Tensor> back;
  if (stack.back().isTensor())
    back.push_back(stack.back().toTensor());
  else
    for (const c10::IValue& element : stack.back().toTupleRef().elements())
      back.push_back(element.toTensor());
  error = 0.0;
  for (size_t i = 0; i < back.size(); ++i) {
    const at::Tensor x = env.at(n->input(i + 1)).toTensor();
    if (x.sizes() != back[i].sizes())
      return false;
    if (x.numel() == 0)
      continue;
    const double size = std::max(x.abs().max().item<double>(), 1e-30);
    const double distance = at::sub(x, back[i]).abs().max().item<double>();
    error = std::max(error, distance / size);
  }
  return error < 1e-2;
}

} // namespace

BlockPlan::BlockPlan(const MethodFacts& facts)
    : facts_(facts), rules_{facts.flow, facts.rules.options, facts.rules.self},
      leaving_(std::make_shared<std::unordered_set<const Value*>>(
          leavingValues(*facts.flow.block().owningGraph()))) {
  make();
}

BlockPlan::BlockPlan(const BlockPlan& outer, Block& block)
    : facts_(outer.facts_),
      ownFlow_(std::make_unique<Dataflow>(
          outer.flow(), block,
          [&](ValueId v) {
            return outer.around(v, outer.flow().idOf(block.owningNode()));
          })),
      rules_{*ownFlow_, outer.rules_.options, outer.rules_.self},
      leaving_(outer.leaving_) {
  make();
}

/// What the analysis found may not come together as a step. Then it looks
/// again, without: what is left may not pay any more.
void BlockPlan::make() {
  Bans bans;
  for (size_t before = bans.size() + 1; before != bans.size();) {
    before = bans.size();
    found = findInvertibility(rules_, bans);
    std::vector<DraftRefusal> refused = wrongAnnotations();
    drafts.clear();
    schedule = {};
    if (refused.empty()) {
      drafts = draftSteps(found, rules_, refused);
      schedule = scheduleSteps(drafts, flow(), refused);
    }
    for (DraftRefusal& r : refused) {
      for (const Derivation& d : r.derivations)
        ban(d, bans);
      refusals_.push_back({r.node, r.reason, std::move(r.detail)});
    }
  }
  planInner();
}

std::vector<DraftRefusal> BlockPlan::wrongAnnotations() const {
  std::vector<DraftRefusal> wrong;
  if (!facts_.run)
    return wrong;
  for (const Derivation& d : found.derivations) {
    double error = 0.0;
    const Node* n = flow().node(d.node).node;
    if (d.cls == RuleClass::Annotated &&
        facts_.run->values().count(n->output()) &&
        !annotationHolds(n, facts_.run->values(), error))
      wrong.push_back({d.node,
                       Reason::AnnotationWrong,
                       fmt::format("relative error {:.2g}", error),
                       {d}});
  }
  return wrong;
}

void BlockPlan::planInner() {
  for (int32_t n : schedule.order)
    if (n >= 0)
      for (ValueId v : flow().node(n).saved)
        keepers_[flow().storage(v)].push_back({n, v});
  for (const Derivation& d : found.derivations)
    for (ValueId x : d.solved)
      rebuilt_.insert(flow().canonical(x));
  for (int32_t n : schedule.order)
    if (n >= 0)
      for (Block* block : flow().node(n).node->blocks())
        if (block->nodes().begin() != block->nodes().end())
          inner.push_back(
              std::unique_ptr<BlockPlan>(new BlockPlan(*this, *block)));
}

/// What becomes of `v` beside `node`, an if or a loop that reads or makes it.
Surroundings BlockPlan::around(ValueId v, NodeId node) const {
  const ValueInfo& info = flow().value(v);
  const Availability a = found.availability.at(size_t(flow().canonical(v)));
  Surroundings s;
  s.keptAround = info.keptAround || a == Availability::Anchor;
  s.there = info.there || a == Availability::Anchor ||
            rebuilt_.count(flow().canonical(v)) != 0;
  const auto keepers = keepers_.find(info.storage);
  if (keepers != keepers_.end())
    for (const auto& [n, saved] : keepers->second) {
      const bool plain = flow().node(n).node->blocks().empty();
      s.keptAround |= plain;
      // Another if or loop behind that reads it keeps it, or has steps that
      // rebuild it. What the next iteration is given in its place is another
      // state, and so is another part of what is kept.
      s.there |= (plain || (n > node && flow().value(saved).def != n)) &&
                 flow().canonical(saved) == flow().canonical(v);
    }
  return s;
}

bool BlockPlan::hasSteps() const {
  return !drafts.empty() ||
         std::any_of(inner.begin(), inner.end(),
                     [](const auto& plan) { return plan->hasSteps(); });
}

std::vector<Refusal> BlockPlan::refusals() const {
  std::vector<Refusal> all = refusals_;
  std::set<NodeId> told, entered;
  for (const StepDraft& d : drafts)
    told.insert(d.owned.begin(), d.owned.end());
  for (const auto& plan : inner)
    if (plan->hasSteps())
      entered.insert(flow().idOf(plan->flow().block().owningNode()));
  std::erase_if(all, [&](const Refusal& r) { return told.count(r.node) != 0; });
  for (const Refusal& r : all)
    told.insert(r.node);
  for (const Refusal& r : found.refusals)
    if (!told.count(r.node))
      all.push_back(r);
  std::erase_if(all, [&](const Refusal& r) {
    return r.reason == Reason::ControlFlow && entered.count(r.node) != 0;
  });
  std::stable_sort(
      all.begin(), all.end(),
      [](const Refusal& a, const Refusal& b) { return a.node < b.node; });
  return all;
}

void forEachPlan(const BlockPlan& plan,
                 const std::function<void(const BlockPlan&)>& visit) {
  visit(plan);
  for (const auto& inner : plan.inner)
    forEachPlan(*inner, visit);
}

} // namespace inv::opt
