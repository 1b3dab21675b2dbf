#include "passes/analysis/Invertibility.h"

#include "passes/analysis/Judge.h"
#include "passes/analysis/Sweep.h"

#include <torch/csrc/jit/ir/ir.h>

#include <fmt/format.h>

#include <ostream>

namespace inv::opt {

const char* nameOf(Availability a) {
  switch (a) {
  case Availability::None:
    return "none";
  case Availability::Output:
    return "output";
  case Availability::Held:
    return "held";
  case Availability::Anchor:
    return "anchor";
  case Availability::Rebuilt:
    return "rebuilt";
  }
  return "";
}

bool solvesPart(const Derivation& d) {
  return std::any_of(d.elements.begin(), d.elements.end(),
                     [](const Elements& e) { return !e.isWhole(); });
}

bool solvesPart(const Derivation& d, size_t i) {
  return !d.elements.empty() && !d.elements.at(i).isWhole();
}

void ban(const Derivation& d, Bans& bans) {
  if (d.candidate < 0)
    bans.insert({d.node, -1});
  for (ValueId x : d.solved)
    bans.insert({d.node, x});
}

Invertibility findInvertibility(const RuleContext& context, Bans bans) {
  // Each round bans what the last one found not to pay. Bans only grow, so it
  // ends; real models need one to three rounds.
  Invertibility result;
  std::vector<Refusal> refusals, unprofitable;
  for (;;) {
    Sweep sweep(context, bans);
    sweep.run();
    Verdict verdict = judge(context, sweep);
    for (Refusal& r : verdict.refusals)
      unprofitable.push_back(std::move(r));
    for (Refusal& r : sweep.takeLost())
      unprofitable.push_back(std::move(r));
    const size_t before = bans.size();
    bans.insert(verdict.bans.begin(), verdict.bans.end());
    bans.insert(sweep.hindering().begin(), sweep.hindering().end());
    if (bans.size() != before)
      continue;
    result.derivations = std::move(verdict.kept);
    result.availability = sweep.availability();
    result.dropped = std::move(verdict.dropped);
    result.keptBefore = verdict.keptBefore;
    result.keptAfter = verdict.keptAfter;
    for (Refusal& r : sweep.takeRefusals())
      refusals.push_back(std::move(r));
    break;
  }
  // What is wrong with the model's own coupling says more than that another way
  // to undo the node does not pay.
  for (Refusal& r : unprofitable)
    refusals.push_back(std::move(r));
  // A node that a derivation was made at, or that is run again, was not missed.
  std::set<NodeId> taken;
  for (const Derivation& d : result.derivations) {
    taken.insert(d.node);
    taken.insert(d.conditioner.begin(), d.conditioner.end());
  }
  std::set<NodeId> told;
  std::stable_sort(
      refusals.begin(), refusals.end(),
      [](const Refusal& a, const Refusal& b) { return a.node < b.node; });
  for (Refusal& r : refusals)
    if (!taken.count(r.node) && told.insert(r.node).second)
      result.refusals.push_back(std::move(r));
  return result;
}

namespace {

std::string names(const Dataflow& flow, const std::vector<ValueId>& vs) {
  std::string out;
  for (ValueId v : vs)
    out += (out.empty() ? "" : ", ") + nameOf(flow.value(v).value);
  return out;
}

} // namespace

void print(std::ostream& out, const Invertibility& result,
           const Dataflow& flow) {
  const char* unit = flow.shapesKnown() ? "bytes" : "values";
  out << fmt::format("kept for backward: {} {} before, {} after\n",
                     result.keptBefore, unit, result.keptAfter, unit);
  for (const Derivation& d : result.derivations) {
    const NodeInfo& n = flow.node(d.node);
    out << fmt::format("rebuild {}{} by {} of {}",
                       solvesPart(d) ? "part of " : "",
                       d.solved.empty() ? "nothing" : names(flow, d.solved),
                       d.rule, names(flow, n.results));
    if (!d.others.empty())
      out << fmt::format(" and {}", names(flow, d.others));
    if (!d.conditioner.empty())
      out << fmt::format(", running {} nodes again from {}",
                         d.conditioner.size(), names(flow, d.terminals));
    out << "\n";
  }
  for (ValueId v = 0; v < ValueId(flow.values().size()); ++v) {
    const Availability a = result.availability.empty() ? Availability::None
                                                       : result.availability[v];
    if (a == Availability::Anchor || a == Availability::Held)
      out << fmt::format("{} {}\n", nameOf(a), nameOf(flow.value(v).value));
  }
  for (ValueId s : result.dropped)
    out << fmt::format("dropped {}\n", nameOf(flow.value(s).value));
}

} // namespace inv::opt
