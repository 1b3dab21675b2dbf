#include "passes/transforms/StepDraft.h"

#include "passes/rules/Match.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Symbols.h"
#include "passes/transforms/CompleteConditioners.h"
#include "passes/transforms/WrittenAttributes.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

const char* nameOf(StepForm form) {
  switch (form) {
  case StepForm::Coupling:
    return "coupling";
  case StepForm::Bijection:
    return "bijection";
  case StepForm::Checkpoint:
    return "checkpoint";
  }
  return "";
}

int32_t positionOf(const StepDraft& draft, const Dataflow& flow) {
  int32_t last = 0;
  for (const auto* nodes : {&draft.conditioner, &draft.stream})
    for (NodeId n : *nodes)
      last = std::max(last, flow.node(n).position);
  return last;
}

bool isCopied(const Dataflow& flow, NodeId n) {
  const NodeInfo& info = flow.node(n);
  // as_piece is a copy, but two steps that read it are not one for that.
  if (info.glue || info.view || info.node->kind() == sym::asPiece())
    return true;
  if (info.effect == EffectKind::Assert && info.results.empty())
    return false;
  return std::none_of(info.results.begin(), info.results.end(),
                      [&](ValueId v) { return flow.value(v).isActivation(); });
}

namespace {

void addOnce(std::vector<ValueId>& list, ValueId v) {
  if (std::find(list.begin(), list.end(), v) == list.end())
    list.push_back(v);
}

class Drafter {
public:
  Drafter(const Invertibility& found, const RuleContext& context,
          std::vector<DraftRefusal>& refusals)
      : found_(found), flow_(context.flow), written_(context.flow),
        refusals_(refusals), parent_(found.derivations.size()) {
    std::iota(parent_.begin(), parent_.end(), size_t(0));
    for (size_t i = 0; i < parent_.size(); ++i)
      members_.push_back({i});
  }

  std::vector<StepDraft> run() {
    uniteSharedConditioners();
    uniteCastWithMaker();
    uniteWithReader();
    uniteParts();
    uniteBetween();
    std::vector<StepDraft> steps = collectGroups();
    completeConditioners(steps, flow_);
    findOwners(steps);
    std::vector<StepDraft> out;
    for (StepDraft& step : steps)
      if (fill(step))
        out.push_back(std::move(step));
    findLive(out);
    for (StepDraft& step : out)
      fillSides(step);
    return out;
  }

private:
  size_t find(size_t i) {
    while (parent_[i] != i)
      i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  /// The group of `i` becomes part of that of `j`.
  void unite(size_t i, size_t j) {
    i = find(i), j = find(j);
    if (i == j)
      return;
    parent_[i] = j;
    members_[j].insert(members_[j].end(), members_[i].begin(),
                       members_[i].end());
    members_[i].clear();
  }

  void uniteSharedConditioners();
  void uniteCastWithMaker();
  void uniteWithReader();
  void uniteParts();
  void uniteBetween();
  bool feeds(size_t i, const Derivation& next);
  void leaveGivenParts(StepDraft& step, std::set<NodeId>& stream) const;
  std::vector<StepDraft> collectGroups();
  void findOwners(const std::vector<StepDraft>& steps);
  bool fill(StepDraft& step);
  void fillInputs(StepDraft& step);
  void addOperand(StepDraft& step, ValueId v, bool ofFunction);
  void findLive(const std::vector<StepDraft>& steps);
  void fillSides(StepDraft& step);

  const Invertibility& found_;
  const Dataflow& flow_;
  const WrittenAttributes written_;
  std::vector<DraftRefusal>& refusals_;
  std::vector<size_t> parent_;
  std::vector<std::vector<size_t>> members_; ///< by root
  std::unordered_map<NodeId, size_t> owner_; ///< owned node → step
  std::vector<bool> live_;                   ///< node stays in the method
};

/// y = x * exp(s) + t: two derivations, one network that makes s and t.
void Drafter::uniteSharedConditioners() {
  std::unordered_map<NodeId, size_t> first;
  for (size_t i = 0; i < parent_.size(); ++i)
    for (NodeId n : found_.derivations[i].conditioner) {
      if (isCopied(flow_, n))
        continue;
      auto [at, fresh] = first.insert({n, i});
      if (!fresh)
        unite(i, at->second);
    }
}

/// The cast that an in-place sum ends with belongs to the sum: it names a
/// tensor of the network, which would have to come out of the step for it.
void Drafter::uniteCastWithMaker() {
  std::unordered_map<NodeId, size_t> byNode;
  for (size_t i = 0; i < parent_.size(); ++i)
    byNode[found_.derivations[i].node] = i;
  for (size_t i = 0; i < parent_.size(); ++i) {
    const Derivation& d = found_.derivations[i];
    if (flow_.node(d.node).node->kind() != aten::type_as ||
        d.solved.size() != 1)
      continue;
    auto maker = byNode.find(flow_.value(d.solved[0]).def);
    if (maker != byNode.end())
      unite(i, maker->second);
  }
}

/// permute, scale, ... whose only reader is undone by a derivation of its own:
/// one step does both. Likewise x * s + t with a network each for s and t of
/// the same terminals.
void Drafter::uniteWithReader() {
  std::unordered_map<NodeId, size_t> byNode;
  for (size_t i = 0; i < parent_.size(); ++i)
    if (found_.derivations[i].candidate >= 0)
      byNode[found_.derivations[i].node] = i;
  for (size_t i = 0; i < parent_.size(); ++i) {
    const Derivation& d = found_.derivations[i];
    const bool light = d.conditioner.empty() &&
                       (d.cls == RuleClass::Free || d.cls == RuleClass::Scale);
    const bool combines = d.candidate >= 0 && (d.cls == RuleClass::Sum ||
                                               d.cls == RuleClass::Product);
    if ((!light && !combines) || flow_.node(d.node).results.size() != 1)
      continue;
    const ValueInfo& result = flow_.value(flow_.node(d.node).results[0]);
    if (result.readers.size() != 1 || result.graphOutput)
      continue;
    auto reader = byNode.find(result.readers[0]);
    if (reader == byNode.end())
      continue;
    const Derivation& next = found_.derivations[reader->second];
    const auto& solved = next.solved;
    if (solvesPart(d) || (light && next.solved.size() > 1 && feeds(i, next)))
      continue;
    if (next.needsSizes)
      continue; // the size of what would be inside is not there to be asked
    if (d.resizes || next.resizes)
      continue; // the runtime could not tell a broadcast operand any more
    if (combines &&
        (next.terminals != d.terminals ||
         (next.cls != RuleClass::Sum && next.cls != RuleClass::Product)))
      continue;
    if (std::find(solved.begin(), solved.end(),
                  flow_.node(d.node).results[0]) != solved.end())
      unite(i, reader->second);
  }
}

/// The group of derivation i starts from what `next` solves: as one step they
/// would read what they make.
bool Drafter::feeds(size_t i, const Derivation& next) {
  for (size_t j : members_[find(i)])
    for (ValueId t : found_.derivations[j].terminals)
      for (ValueId x : next.solved)
        if (flow_.canonical(t) == flow_.canonical(x))
          return true;
  return false;
}

/// A value is handed over whole: the derivations that give its parts are one
/// step, with those that go on from a part.
void Drafter::uniteParts() {
  std::unordered_map<ValueId, size_t> makers; ///< canonical value → derivation
  for (size_t i = 0; i < parent_.size(); ++i) {
    const Derivation& d = found_.derivations[i];
    if (!solvesPart(d))
      continue;
    for (ValueId x : d.solved) {
      auto [at, fresh] = makers.insert({flow_.canonical(x), i});
      if (!fresh)
        unite(i, at->second);
    }
  }
  for (size_t i = 0; i < parent_.size(); ++i) {
    const Derivation& d = found_.derivations[i];
    if (!d.ofPart)
      continue;
    for (ValueId y : flow_.node(d.node).results)
      if (auto at = makers.find(flow_.canonical(y)); at != makers.end())
        unite(i, at->second);
  }
}

/// What lies between two derivations of a step, on the states' way from one to
/// the other, belongs to it: x[:, i] is changed and written over x[:, i].
void Drafter::uniteBetween() {
  std::unordered_map<ValueId, size_t> makers; ///< result → derivation
  for (size_t i = 0; i < parent_.size(); ++i)
    if (found_.derivations[i].candidate >= 0)
      for (ValueId y : flow_.node(found_.derivations[i].node).results)
        makers[flow_.canonical(y)] = i;
  // Backwards from a derivation, over what it solves, to its own group.
  const std::function<bool(size_t, size_t, int)> leadsBack =
      [&](size_t i, size_t group, int depth) {
        bool leads = false;
        for (ValueId x : found_.derivations[i].solved) {
          const auto maker = makers.find(flow_.canonical(x));
          if (maker == makers.end() || depth == 0)
            continue;
          const size_t j = maker->second;
          if (find(j) == find(group)) {
            leads = true;
          } else if (leadsBack(j, group, depth - 1)) {
            parent_[find(j)] = find(group);
            leads = true;
          }
        }
        return leads;
      };
  constexpr int kMostBetween = 16;
  for (size_t i = 0; i < parent_.size(); ++i)
    if (solvesPart(found_.derivations[i]))
      for (ValueId x : found_.derivations[i].solved)
        if (const auto maker = makers.find(flow_.canonical(x));
            maker == makers.end() || find(maker->second) != find(i))
          leadsBack(i, i, kMostBetween);
}

/// Masked products and the like whose result the step's own network reads:
/// they stay in the method, and the step is given what they make.
void Drafter::leaveGivenParts(StepDraft& step, std::set<NodeId>& stream) const {
  std::unordered_set<ValueId> terminals;
  for (const Derivation& d : step.derivations)
    for (ValueId t : d.terminals)
      terminals.insert(flow_.canonical(t));
  for (const Derivation& d : step.derivations) {
    const auto& results = flow_.node(d.node).results;
    if (solvesPart(d) && !d.ofPart &&
        std::all_of(results.begin(), results.end(), [&](ValueId y) {
          return terminals.count(flow_.canonical(y)) != 0;
        })) {
      stream.erase(d.node);
      step.given.insert(step.given.end(), results.begin(), results.end());
    }
  }
}

std::vector<StepDraft> Drafter::collectGroups() {
  std::unordered_map<size_t, size_t> index;
  std::vector<StepDraft> steps;
  for (size_t i = 0; i < parent_.size(); ++i) {
    auto [at, fresh] = index.insert({find(i), steps.size()});
    if (fresh)
      steps.emplace_back();
    steps[at->second].derivations.push_back(found_.derivations[i]);
  }
  for (StepDraft& step : steps) {
    std::set<NodeId> conditioner, stream;
    for (const Derivation& d : step.derivations) {
      conditioner.insert(d.conditioner.begin(), d.conditioner.end());
      if (d.candidate >= 0)
        stream.insert(d.node);
    }
    for (NodeId n : stream)
      conditioner.erase(n);
    leaveGivenParts(step, stream);
    step.conditioner.assign(conditioner.begin(), conditioner.end());
    step.stream.assign(stream.begin(), stream.end());
    step.form = step.stream.empty()   ? StepForm::Checkpoint
                : conditioner.empty() ? StepForm::Bijection
                                      : StepForm::Coupling;
  }
  // In the order of the method, so that steps are numbered as they run.
  std::stable_sort(steps.begin(), steps.end(),
                   [&](const StepDraft& a, const StepDraft& b) {
                     return positionOf(a, flow_) < positionOf(b, flow_);
                   });
  return steps;
}

void Drafter::findOwners(const std::vector<StepDraft>& steps) {
  for (size_t i = 0; i < steps.size(); ++i) {
    for (NodeId n : steps[i].conditioner)
      if (!isCopied(flow_, n))
        owner_[n] = i;
    for (NodeId n : steps[i].stream)
      owner_[n] = i;
  }
}

void Drafter::addOperand(StepDraft& step, ValueId v, bool ofFunction) {
  const ValueInfo& info = flow_.value(v);
  Node* maker = info.value->node();
  const bool tensor = isTensor(info);
  if (info.value->type()->kind() == c10::TypeKind::NoneType ||
      info.value->type()->cast<c10::ClassType>())
    return; // written as None; a module's attributes are handed in one by one
  if (maker->kind() == prim::Constant &&
      (!tensor || constantScalar(info.value)))
    return; // copied
  if (maker->kind() == prim::ListConstruct ||
      maker->kind() == prim::TupleConstruct) {
    for (const Value* element : maker->inputs())
      addOperand(step, flow_.idOf(element), ofFunction);
    return;
  }
  if (tensor && info.isActivation()) {
    addOnce(step.zs, v);
    return;
  }
  addOnce(tensor ? step.captures : step.extras, v);
  if (ofFunction)
    addOnce(tensor ? step.functionCaptures : step.functionExtras, v);
}

void Drafter::fillInputs(StepDraft& step) {
  std::unordered_set<ValueId> made, streamMade;
  for (NodeId n : step.conditioner)
    made.insert(flow_.node(n).results.begin(), flow_.node(n).results.end());
  for (NodeId n : step.stream)
    streamMade.insert(flow_.node(n).results.begin(),
                      flow_.node(n).results.end());
  for (NodeId n : step.conditioner)
    for (ValueId v : flow_.node(n).operands)
      if (!made.count(v))
        addOperand(step, v, false);
  std::unordered_set<ValueId> solved;
  for (const Derivation& d : step.derivations)
    solved.insert(d.solved.begin(), d.solved.end());
  auto readByFunction = [&](ValueId v) {
    if (streamMade.count(v))
      return;
    if (solved.count(v))
      return addOnce(step.xs, v);
    if (made.count(v) ||
        (isTensor(flow_.value(v)) && flow_.value(v).isActivation())) {
      addOnce(step.aux, v);
      if (!made.count(v))
        addOnce(step.zs, v);
      return;
    }
    addOperand(step, v, true);
  };
  for (NodeId n : step.stream)
    for (ValueId v : flow_.node(n).operands)
      readByFunction(v);
  for (const Derivation& d : step.derivations)
    if (d.candidate >= 0)
      for (ValueId v : d.others)
        if (!solved.count(v))
          readByFunction(v);
  for (ValueId v : step.given)
    readByFunction(v);
  for (const auto* nodes : {&step.conditioner, &step.stream})
    for (NodeId n : *nodes)
      for (Value* v : scratchInputs(flow_.node(n).node)) {
        const ValueId id = flow_.idOf(v);
        if (std::find(step.captures.begin(), step.captures.end(), id) !=
            step.captures.end())
          addOnce(step.scratch, id);
      }
  // What the method changes elsewhere is not there any more in backward.
  for (ValueId v : step.captures)
    if (written_.mayChange(v))
      addOnce(step.scratch, v);
}

bool Drafter::fill(StepDraft& step) {
  std::unordered_set<NodeId> inside(step.stream.begin(), step.stream.end());
  for (NodeId n : step.conditioner)
    if (!isCopied(flow_, n))
      step.owned.push_back(n);
  step.owned.insert(step.owned.end(), step.stream.begin(), step.stream.end());
  std::sort(step.owned.begin(), step.owned.end());
  fillInputs(step);
  auto refuse = [&](NodeId n, ValueId v) {
    refusals_.push_back({n, Reason::Untraceable, nameOf(flow_.value(v).value),
                         step.derivations});
    return false;
  };
  // A step cannot read what it makes.
  for (NodeId n : step.stream)
    for (ValueId v : flow_.node(n).results)
      if (std::find(step.zs.begin(), step.zs.end(), v) != step.zs.end())
        return refuse(n, v);
  // The size of what is made inside is not there to be asked.
  for (const Derivation& d : step.derivations)
    for (ValueId x : d.solved)
      if (d.needsSizes && !d.sizesOptional && inside.count(flow_.value(x).def))
        return refuse(d.node, x);
  // Tensors are handed in one by one, or no gradient would reach them: none in
  // a list. (One that may be None goes as a tensor and a flag.)
  for (ValueId v : step.extras)
    if (mayHoldTensor(flow_.value(v).value->type()) &&
        !isOptionalTensor(flow_.value(v).value->type())) {
      refusals_.push_back(
          {step.owned.back(), Reason::Untraceable,
           nameOf(flow_.value(v).value) + " is no tensor, but may hold one",
           step.derivations});
      return false;
    }
  // A number that the function reads must come from outside.
  for (ValueId v : step.aux)
    if (!isTensor(flow_.value(v)))
      return refuse(step.stream.back(), v);
  for (NodeId n : step.stream)
    for (ValueId v : flow_.node(n).results) {
      if (!isTensor(flow_.value(v)))
        continue;
      bool outside =
          flow_.value(v).graphOutput || flow_.value(v).readers.empty();
      for (NodeId reader : flow_.value(v).readers)
        outside |= !inside.count(reader);
      if (outside)
        addOnce(step.ys, v);
    }
  if (step.form == StepForm::Bijection &&
      !(step.zs.empty() && step.conditioner.empty()))
    step.form = StepForm::Coupling;
  return true;
}

/// Which nodes stay in the method: those that are not owned by a step and that
/// somebody in the method still needs.
void Drafter::findLive(const std::vector<StepDraft>& steps) {
  live_.assign(flow_.nodes().size(), false);
  owner_.clear();
  findOwners(steps);
  std::unordered_set<ValueId> needed;
  for (const StepDraft& step : steps)
    for (const auto* list : {&step.xs, &step.zs, &step.captures, &step.extras})
      needed.insert(list->begin(), list->end());
  for (NodeId n = NodeId(flow_.nodes().size()) - 1; n >= 0; --n) {
    const NodeInfo& info = flow_.node(n);
    if (owner_.count(n) || info.glue)
      continue;
    bool wanted = info.results.empty() || info.effect != EffectKind::Pure;
    for (ValueId v : info.results)
      wanted |= needed.count(v) || flow_.value(v).graphOutput;
    live_[n] = wanted;
    if (wanted)
      needed.insert(info.operands.begin(), info.operands.end());
  }
}

void Drafter::fillSides(StepDraft& step) {
  std::unordered_set<NodeId> own(step.owned.begin(), step.owned.end());
  for (NodeId n : step.conditioner) {
    if (isCopied(flow_, n))
      continue;
    for (ValueId v : flow_.node(n).results) {
      bool outside = flow_.value(v).graphOutput;
      for (NodeId reader : flow_.value(v).readers)
        outside |=
            !own.count(reader) && (live_[reader] || owner_.count(reader) != 0);
      if (outside)
        addOnce(step.sides, v);
    }
  }
}

} // namespace

std::vector<StepDraft> draftSteps(const Invertibility& found,
                                  const RuleContext& context,
                                  std::vector<DraftRefusal>& refusals) {
  return Drafter(found, context, refusals).run();
}

} // namespace inv::opt
