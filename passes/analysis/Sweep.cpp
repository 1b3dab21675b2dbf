#include "passes/analysis/Sweep.h"

#include "passes/rules/Match.h"

#include <torch/csrc/jit/ir/ir.h>

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The state is combined with what a network made.
bool isCombination(RuleClass cls) {
  return cls == RuleClass::Sum || cls == RuleClass::Product;
}

} // namespace

Sweep::Sweep(const RuleContext& context, const Bans& bans)
    : context_(context), flow_(context.flow), bans_(bans),
      avail_(flow_.values().size(), Availability::None),
      growth_(flow_.values().size(), 1.0),
      interior_(flow_.nodes().size(), false),
      done_(flow_.nodes().size(), false) {}

bool Sweep::available(ValueId v) const {
  const ValueInfo& info = flow_.value(v);
  if (!info.isActivation())
    return true;
  return avail_[flow_.canonical(v)] != Availability::None;
}

void Sweep::makeAvailable(ValueId v, Availability a) {
  Availability& now = avail_[flow_.canonical(v)];
  if (now == Availability::None)
    now = a;
}

bool Sweep::allAvailable(const std::vector<ValueId>& vs) const {
  return std::all_of(vs.begin(), vs.end(),
                     [&](ValueId v) { return available(v); });
}

bool Sweep::resultsAvailable(NodeId n) const {
  return allAvailable(flow_.node(n).results);
}

/// The node's one result is not there, but a part of it is.
bool Sweep::knownInPart(NodeId n) const {
  const auto& results = flow_.node(n).results;
  return results.size() == 1 && !available(results[0]) &&
         parts_.count(flow_.canonical(results[0])) != 0;
}

/// Which elements the candidate would give; false where it gives none, since
/// the results that it needs are not there.
bool Sweep::findElements(NodeId n, const Candidate& c, Choice& choice) const {
  choice.elements = c.elements;
  if (resultsAvailable(n))
    return true;
  if (!knownInPart(n) || !c.elementwise || c.solved.size() != 1)
    return false;
  const ValueId y = flow_.canonical(flow_.node(n).results[0]);
  const Elements known = knownPart(y);
  std::optional<Elements> both =
      intersection(known, c.elements.empty() ? Elements{} : c.elements[0]);
  if (!both)
    return false;
  choice.elements = {*both};
  choice.ofPart = true;
  return true;
}

/// What is known of a value, as one set: masks and places do not go together.
Elements Sweep::knownPart(ValueId v) const {
  std::vector<Elements> sets;
  for (const Elements& part : parts_.at(flow_.canonical(v)))
    if (sets.empty() || part.isMasked() == sets[0].isMasked())
      sets.push_back(part);
  return united(sets);
}

bool Sweep::anyAvailable(NodeId n) const {
  for (ValueId v : flow_.node(n).results)
    if (flow_.value(v).isActivation() && available(v))
      return true;
  return false;
}

double Sweep::growthOf(NodeId n) const {
  double growth = 1.0;
  for (ValueId y : flow_.node(n).results)
    growth = std::max(growth, growth_[flow_.canonical(y)]);
  return growth;
}

bool Sweep::classAllowed(RuleClass cls) const {
  return pass_ == 2 ||
         (cls != RuleClass::Solve && cls != RuleClass::Pointwise &&
          cls != RuleClass::Normalisation);
}

void Sweep::refuse(NodeId n, Reason reason, std::string detail) {
  refusals_.push_back({n, reason, std::move(detail)});
}

void Sweep::run() {
  for (pass_ = 1; pass_ <= 2; ++pass_) {
    // What pass 1 rebuilds, pass 2 finds rebuilt; what it held or anchored is
    // asked again, since a solve may do better.
    for (ValueId v = 0; v < ValueId(avail_.size()); ++v) {
      if (avail_[v] == Availability::Held || avail_[v] == Availability::Output)
        avail_[v] = Availability::None;
    }
    sweepOnce();
  }
  dropUnfinished();
  dropDoubledRecomputations();
  orderDerivations();
  explainBreaks();
}

void Sweep::sweepOnce() {
  if (pass_ == 1)
    refusals_.clear();
  std::vector<ValueId> outputs;
  for (ValueId v = 0; v < ValueId(avail_.size()); ++v)
    if (flow_.value(v).there && flow_.value(v).isActivation())
      makeAvailable(v, Availability::Output), outputs.push_back(v);
  undoFreeProducers(outputs);
  for (NodeId n = NodeId(flow_.nodes().size()) - 1; n >= 0; --n)
    if (!done_[n] && !(pass_ == 2 && interior_[n]))
      process(n);
}

/// A node that stays as it is: what its derivative reads is kept.
void Sweep::keepPlain(NodeId n) {
  std::vector<ValueId> fresh;
  for (ValueId v : flow_.node(n).saved) {
    if (!available(v))
      fresh.push_back(v);
    makeAvailable(v, Availability::Held);
  }
  undoFreeProducers(fresh);
}

/// Results that somebody reads later and that are not there yet: the end of a
/// chain, which the step itself would hold.
std::vector<ValueId> Sweep::anchorsFor(NodeId n) const {
  std::vector<ValueId> anchors;
  for (ValueId v : flow_.node(n).results)
    if (flow_.value(v).isActivation() && !available(v) &&
        !flow_.value(v).readers.empty())
      anchors.push_back(v);
  return anchors;
}

void Sweep::process(NodeId n) {
  const NodeInfo& info = flow_.node(n);
  if (info.glue)
    return;
  if (info.effect == EffectKind::Effect || info.results.empty())
    return keepPlain(n);
  const bool any = anyAvailable(n), part = knownInPart(n);
  if (!any && !part && interior_[n])
    return;
  const std::vector<Candidate>& candidates = candidatesOf(n, context_);
  Choice choice;
  if (any || part)
    choice = choose(n, candidates);
  std::vector<ValueId> anchors;
  // Start a chain here only where something is worth undoing; a part of the
  // result that led nowhere is held with the rest.
  if (choice.candidate == -2 && !any) {
    if (isWorthAnAnchor(candidates))
      anchors = anchorsFor(n);
    for (ValueId v : anchors)
      avail_[flow_.canonical(v)] = Availability::Anchor;
    if (!anchors.empty())
      choice = choose(n, candidates);
    else if (!part)
      refuseUnfit(n, candidates);
  }
  if (choice.candidate == -2) {
    for (ValueId v : anchors)
      avail_[flow_.canonical(v)] = Availability::None;
    return keepPlain(n);
  }
  const Candidate* c =
      choice.candidate < 0 ? nullptr : &candidates[choice.candidate];
  commit(n, c, choice, anchors);
}

/// (Not a norm: that it keeps its operand costs as much as an anchor.)
bool Sweep::isWorthAnAnchor(const std::vector<Candidate>& candidates) const {
  return std::any_of(
      candidates.begin(), candidates.end(), [&](const Candidate& c) {
        if (c.refused)
          return false;
        return isCombination(c.cls) || c.cls == RuleClass::Annotated ||
               (pass_ == 2 &&
                (c.cls == RuleClass::Solve || c.cls == RuleClass::Pointwise));
      });
}

/// Tells the conditions that fail, but where another rule undoes the operand.
/// Of a layer or an activation only where a chain ends at it: a stem or a head
/// that cannot be undone surprises nobody.
void Sweep::refuseUnfit(NodeId n, const std::vector<Candidate>& candidates) {
  const auto& results = flow_.node(n).results;
  const bool inChain =
      std::any_of(results.begin(), results.end(), [&](ValueId v) {
        return avail_[flow_.canonical(v)] == Availability::Rebuilt;
      });
  const bool endsChain = context_.options.forceSteps || inChain;
  for (const Candidate& c : candidates) {
    if (!c.refused || !classAllowed(c.cls) || (c.quiet && !inChain))
      continue;
    if ((c.cls == RuleClass::Solve || c.cls == RuleClass::Pointwise) &&
        !endsChain)
      continue;
    const bool other = std::any_of(
        candidates.begin(), candidates.end(), [&](const Candidate& fits) {
          return !fits.refused && fits.solved == c.solved;
        });
    if (!other)
      refuse(n, *c.refused, c.detail);
  }
}

Sweep::Choice Sweep::choose(NodeId n,
                            const std::vector<Candidate>& candidates) {
  refuseUnfit(n, candidates);
  Choice best;
  for (int i = 0; i < int(candidates.size()); ++i) {
    const Candidate& c = candidates[i];
    if (!classAllowed(c.cls) || c.refused)
      continue;
    Choice choice = tryCandidate(n, c, i);
    if (choice.candidate == -2)
      continue;
    auto rank = [](const Choice& x) {
      return std::make_tuple(x.afar, !x.needed, x.origins,
                             x.slice.anchors.size(), x.slice.nodes.size());
    };
    if (best.candidate == -2 || rank(choice) < rank(best))
      best = std::move(choice);
  }
  if (best.candidate == -2)
    best = tryRecompute(n, candidates);
  return best;
}

Sweep::Choice Sweep::tryCandidate(NodeId n, const Candidate& c, int index) {
  Choice choice;
  if (!findElements(n, c, choice))
    return choice;
  if (allAvailable(c.solved)) {
    explainKept(n, c);
    return choice;
  }
  for (ValueId y : flow_.node(n).results)
    if (flow_.value(y).writtenInPlace) {
      refuse(n, Reason::WriteInPlace, nameOf(flow_.value(y).value));
      return choice;
    }
  for (ValueId x : c.solved) {
    if (bans_.count({n, x}))
      return choice;
    const ValueInfo& info = flow_.value(x);
    if (info.writtenInPlace) {
      refuse(n, Reason::WriteInPlace, nameOf(info.value));
      return choice;
    }
    // What the caller handed in is kept by the caller.
    if (info.graphInput && info.keptAround && !isCombination(c.cls)) {
      if (c.cls == RuleClass::Annotated)
        refuse(n, Reason::KeptAnyway, nameOf(info.value));
      return choice;
    }
  }
  // Solving from an output that only a plain operator happens to hold is
  // least squares against a saved activation: right on paper, silly in floats.
  // And every network has norms behind which a plain layer keeps what it reads.
  if (c.cls == RuleClass::Solve || c.cls == RuleClass::Normalisation)
    for (ValueId y : flow_.node(n).results) {
      const Availability a = avail_[flow_.canonical(y)];
      if (a != Availability::Rebuilt && a != Availability::Anchor &&
          !(a == Availability::Output) && !context_.options.forceSteps)
        return choice;
    }
  if (c.cls == RuleClass::Solve || c.cls == RuleClass::Pointwise) {
    const double growth = growthOf(n) * c.amplification;
    const double most =
        std::max(context_.options.maxGrowth, context_.options.maxCondition);
    if (!c.growth && growth > most) {
      refuse(n, Reason::Inaccurate,
             fmt::format("{:.3g} > {:.3g}", growth, most));
      return choice;
    }
  }
  Slice s = slice(c.others, c.solved, n, Stops::None);
  // An operand that follows from what is there (the network of a coupling) is
  // not lost: running it again gives it, and frees what is inside as well. Not
  // where that means running the model again from a value that is alive beyond
  // the node for another reason (a skip connection), and the other operand is
  // nearer; where it is not, the node's other ways come first.
  if (isCombination(c.cls)) {
    const Slice own =
        slice(c.solved, {}, n, Stops::Lasting, /*inputsToo=*/false);
    if (own.ok && !own.nodes.empty()) {
      if (own.anchors.empty() || !s.ok || s.nodes.empty())
        return choice;
      choice.afar = s.nodes.size() >= own.nodes.size();
    }
  }
  if (!s.ok)
    s = slice(c.others, c.solved, n, Stops::Lasting);
  // The end of a chain of two states (leapfrog): nobody behind the node reads
  // the other one.
  if (!s.ok && c.cls == RuleClass::Sum &&
      std::all_of(c.solved.begin(), c.solved.end(),
                  [&](ValueId x) { return isState(x); }))
    if (Slice held = slice(c.others, c.solved, n, Stops::States); held.ok)
      s = std::move(held);
  if (!s.ok) {
    explain(n, c, s);
    return choice;
  }
  if (recomputable(c.solved, s)) {
    explain(n, c, s);
    return choice;
  }
  // Two halves updated from each other's old values: one could be undone if the
  // other's old value were held, but that is a checkpoint in disguise.
  const bool readsInput =
      !s.anchors.empty() ||
      std::any_of(s.terminals.begin(), s.terminals.end(), [&](ValueId t) {
        return flow_.value(t).graphInput &&
               avail_[flow_.canonical(t)] == Availability::None;
      });
  if (readsInput && isParallelUpdate(n, c)) {
    refuse(n, Reason::ParallelUpdate, nameOf(flow_.value(c.solved[0]).value));
    return choice;
  }
  choice.candidate = index;
  choice.slice = std::move(s);
  for (ValueId t : choice.slice.terminals)
    if (flow_.value(t).graphInput && !available(t))
      for (ValueId x : c.solved)
        choice.origins += flow_.comesFrom(x, t);
  for (ValueId x : c.solved)
    choice.needed |= !available(x);
  return choice;
}

/// Where the operand to undo is there anyway, running the other operand's
/// network again still frees what it would have saved.
Sweep::Choice Sweep::tryRecompute(NodeId n,
                                  const std::vector<Candidate>& candidates) {
  Choice choice;
  if (derivations_.empty() || bans_.count({n, -1}))
    return choice; // only inside a chain that undoes something
  for (const Candidate& c : candidates) {
    if (c.refused || c.cls != RuleClass::Sum || !allAvailable(c.solved) ||
        c.others.size() != 1 || available(c.others[0]))
      continue;
    // The operand must be a state of the chain, not merely held by somebody.
    if (avail_[flow_.canonical(c.solved[0])] != Availability::Rebuilt)
      continue;
    Slice s = slice(c.others, {}, n, Stops::None);
    if (!s.ok || s.nodes.empty())
      continue;
    bool saves = false;
    for (NodeId node : s.nodes)
      saves |= flow_.node(node).savesAnything();
    bool fromState = false;
    for (ValueId t : s.terminals)
      fromState |= avail_[flow_.canonical(t)] == Availability::Rebuilt;
    if (!saves || !fromState)
      continue;
    choice.candidate = -1;
    choice.slice = std::move(s);
    return choice;
  }
  return choice;
}

/// The result of a sum: what a reversible network hands from block to block.
bool Sweep::isState(ValueId v) const {
  const NodeId def = flow_.value(flow_.canonical(v)).def;
  return def >= 0 && flow_.value(v).isActivation() && isSum(def);
}

Sweep::Slice Sweep::slice(const std::vector<ValueId>& roots,
                          const std::vector<ValueId>& solved, NodeId at,
                          Stops stops, bool inputsToo) const {
  Slice s;
  std::unordered_set<ValueId> seen;
  std::unordered_set<NodeId> nodes;
  std::set<ValueId> terminals, anchors;
  std::vector<ValueId> work(roots.begin(), roots.end());
  auto fail = [&](Reason why, ValueId v) {
    s.why = why;
    s.detail = nameOf(flow_.value(v).value);
    return s;
  };
  auto isSolved = [&](ValueId v) {
    for (ValueId x : solved)
      if (flow_.canonical(x) == flow_.canonical(v))
        return true;
    return false;
  };
  while (!work.empty()) {
    const ValueId v = work.back();
    work.pop_back();
    if (!seen.insert(v).second)
      continue;
    const ValueInfo& info = flow_.value(v);
    if (!info.isActivation())
      continue;
    if (isSolved(v))
      return fail(Reason::ConditionerReadsState, v);
    if (info.writtenInPlace)
      return fail(Reason::WriteInPlace, v);
    if (available(v)) {
      terminals.insert(v);
      continue;
    }
    // A value that is alive beyond the node could be held for it.
    const bool lasting =
        info.def < at && isTensor(info) &&
        (flow_.lastReader(v) > at || (stops == Stops::States && isState(v)));
    if (stops != Stops::None && lasting &&
        std::find(roots.begin(), roots.end(), v) == roots.end()) {
      terminals.insert(v);
      anchors.insert(v);
      continue;
    }
    if (info.def < 0) {
      // The caller keeps its inputs: a mask, a condition. What an iteration is
      // given nobody keeps.
      if (stops == Stops::None || (!inputsToo && info.keptAround) ||
          !isTensor(info))
        return fail(Reason::NotInvertible, v);
      terminals.insert(v);
      if (!info.keptAround)
        anchors.insert(v);
      continue;
    }
    // Pass 1 undid the node from this very value, since a plain operator held
    // it: what runs it again may start from what the node was to give.
    if (done_[info.def])
      return fail(Reason::NotInvertible, v);
    const NodeInfo& def = flow_.node(info.def);
    if (def.effect == EffectKind::Effect)
      return fail(Reason::EffectInside, v);
    if (nodes.insert(info.def).second &&
        int64_t(nodes.size()) > context_.options.maxConditioner)
      return fail(Reason::BudgetExceeded, v);
    for (ValueId operand : def.operands)
      work.push_back(operand);
  }
  s.ok = true;
  s.nodes.assign(nodes.begin(), nodes.end());
  std::sort(s.nodes.begin(), s.nodes.end());
  s.terminals.assign(terminals.begin(), terminals.end());
  s.anchors.assign(anchors.begin(), anchors.end());
  return s;
}

/// Undoing an operand that the terminals alone determine is recomputation in
/// disguise: the search from it meets nothing but terminals.
bool Sweep::recomputable(const std::vector<ValueId>& solved,
                         const Slice& s) const {
  NodeId floor = NodeId(flow_.nodes().size());
  std::unordered_set<ValueId> stop;
  for (ValueId t : s.terminals) {
    stop.insert(flow_.canonical(t));
    floor = std::min(floor, flow_.value(t).def);
  }
  std::unordered_set<ValueId> seen;
  std::vector<ValueId> work(solved.begin(), solved.end());
  while (!work.empty()) {
    const ValueId v = work.back();
    work.pop_back();
    const ValueInfo& info = flow_.value(v);
    if (!info.isActivation() || !seen.insert(v).second ||
        stop.count(flow_.canonical(v)))
      continue;
    // What was there before the first terminal does not come from it.
    if (info.def < 0 || info.def < floor)
      return false;
    for (ValueId operand : flow_.node(info.def).operands)
      work.push_back(operand);
  }
  return true;
}

void Sweep::commit(NodeId n, const Candidate* c, const Choice& choice,
                   const std::vector<ValueId>& resultAnchors) {
  Derivation d;
  d.node = n;
  d.candidate = choice.candidate;
  d.conditioner = choice.slice.nodes;
  d.terminals = choice.slice.terminals;
  d.anchors = choice.slice.anchors;
  if (c) {
    d.rule = c->rule;
    d.cls = c->cls;
    d.solved = c->solved;
    d.elements = choice.elements;
    d.ofPart = choice.ofPart;
    d.others = c->others;
    d.amplification = c->amplification;
    d.needsSizes = c->needsSizes;
    d.sizesOptional = c->sizesOptional;
    d.resizes = c->resizes;
  } else {
    d.rule = "recompute";
    for (const Candidate& other : candidatesOf(n, context_))
      if (other.cls == RuleClass::Sum && !other.refused &&
          allAvailable(other.solved) && !available(other.others[0]))
        d.others = other.others;
  }
  for (ValueId v : choice.slice.anchors)
    makeAvailable(v, Availability::Anchor);
  d.anchors.insert(d.anchors.end(), resultAnchors.begin(), resultAnchors.end());
  for (NodeId node : d.conditioner)
    interior_[node] = true;
  done_[n] = true;
  derivations_.push_back(d);
  // What depends on values, the step measures (abi::kGrowth).
  const double growth = growthOf(n) * (c && c->growth ? 1.0 : d.amplification);
  learn(d, growth);
  std::vector<ValueId> whole;
  for (ValueId x : d.solved)
    if (available(x))
      whole.push_back(x);
  undoFreeProducers(whole);
}

/// The known parts are all of the value. A size that they imply must be as
/// large as others who read a part of it say.
bool Sweep::partsCover(ValueId v) const {
  const std::vector<Elements>& parts = parts_.at(flow_.canonical(v));
  if (!covers(parts))
    return false;
  const std::optional<int64_t> size = sizeImplied(parts);
  if (!size)
    return true;
  for (NodeId reader : flow_.value(v).readers)
    for (const Candidate& c : candidatesOf(reader, context_))
      for (size_t i = 0; i < c.elements.size(); ++i)
        if (c.solved[i] == v && leastSize(c.elements[i]) > *size)
          return false;
  return true;
}

/// What the derivation solves is known now, wholly or in part.
void Sweep::learn(const Derivation& d, double growth) {
  for (size_t i = 0; i < d.solved.size(); ++i) {
    const ValueId x = flow_.canonical(d.solved[i]);
    if (available(x))
      continue;
    growth_[x] = std::max(growth_[x], growth);
    if (solvesPart(d, i)) {
      parts_[x].push_back(d.elements[i]);
      if (!partsCover(d.solved[i]))
        continue;
      joined_.insert(x);
    }
    makeAvailable(x, Availability::Rebuilt);
  }
}

/// Free producers of values that have become available are undone at once,
/// wherever they stand: their operands may be sources for derivations between
/// here and there.
void Sweep::undoFreeProducers(const std::vector<ValueId>& fresh) {
  for (ValueId x : fresh) {
    const NodeId def = flow_.value(flow_.canonical(x)).def;
    if (def < 0 || done_[def] || interior_[def] || !resultsAvailable(def))
      continue;
    for (const Candidate& free : candidatesOf(def, context_))
      if (!free.refused &&
          (free.cls == RuleClass::Free || free.cls == RuleClass::Scale)) {
        process(def);
        break;
      }
  }
}

} // namespace inv::opt
