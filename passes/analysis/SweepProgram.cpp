// What the sweep found, made into a program: leaves out derivations that came
// to nothing, and puts the others in an order in which each finds what it
// reads.
#include "passes/analysis/Sweep.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

/// Parts that never came to a whole are of no use; nor is what only led there.
void Sweep::dropUnfinished() {
  std::unordered_set<ValueId> wanted;
  std::vector<bool> used(derivations_.size(), true);
  for (size_t i = derivations_.size(); i-- > 0;) {
    const Derivation& d = derivations_[i];
    if (solvesPart(d))
      used[i] = std::any_of(d.solved.begin(), d.solved.end(), [&](ValueId v) {
        const ValueId x = flow_.canonical(v);
        return joined_.count(x) != 0 || wanted.count(x) != 0;
      });
    if (used[i] && d.ofPart)
      for (ValueId y : flow_.node(d.node).results)
        wanted.insert(flow_.canonical(y));
  }
  bool lost = false;
  for (size_t i = 0; i < derivations_.size(); ++i)
    if (const Derivation& d = derivations_[i]; !used[i] && d.ofPart) {
      lost = true;
      lost_.push_back(
          {d.node, Reason::PartLost, nameOf(flow_.value(d.solved[0]).value)});
    }
  // Without the parts that it came from the next sweep may hold the whole.
  for (size_t i = 0; lost && i < derivations_.size(); ++i)
    if (const Derivation& d = derivations_[i]; !used[i] && !d.ofPart)
      for (ValueId x : d.solved)
        hindering_.insert({d.node, x});
  size_t i = 0;
  std::erase_if(derivations_, [&](const Derivation&) { return !used[i++]; });
}

/// A recompute derivation may have run a node again at which another one was
/// made later: together they would be a step that reads its own result.
void Sweep::dropDoubledRecomputations() {
  std::unordered_set<NodeId> undone;
  for (const Derivation& d : derivations_)
    if (d.candidate >= 0)
      undone.insert(d.node);
  std::erase_if(derivations_, [&](const Derivation& d) {
    const bool doubled =
        d.candidate < 0 &&
        std::any_of(d.conditioner.begin(), d.conditioner.end(),
                    [&](NodeId n) { return undone.count(n) != 0; });
    if (doubled)
      hindering_.insert({d.node, -1});
    return doubled;
  });
}

/// What pass 1 found held, pass 2 may have dropped and rebuilt, by a derivation
/// that stands later in the list: puts each derivation behind those that it
/// reads. Those that wait for each other are not used.
void Sweep::orderDerivations() {
  // Canonical value → the derivation that makes it, or those that make parts.
  std::unordered_map<ValueId, std::vector<size_t>> makers;
  for (size_t i = 0; i < derivations_.size(); ++i)
    for (ValueId x : derivations_[i].solved) {
      std::vector<size_t>& list = makers[flow_.canonical(x)];
      if (list.empty() || solvesPart(derivations_[i]))
        list.push_back(i);
    }
  std::vector<std::vector<size_t>> behind(derivations_.size());
  std::vector<size_t> waiting(derivations_.size(), 0);
  for (size_t i = 0; i < derivations_.size(); ++i) {
    auto need = [&](ValueId v) {
      auto found = makers.find(flow_.canonical(v));
      const Availability a = avail_[flow_.canonical(v)];
      if (found == makers.end() ||
          (a != Availability::Rebuilt && !derivations_[i].ofPart))
        return;
      for (size_t maker : found->second)
        if (maker != i) {
          behind[maker].push_back(i);
          ++waiting[i];
        }
    };
    const Derivation& d = derivations_[i];
    if (d.candidate >= 0)
      for (ValueId y : flow_.node(d.node).results)
        need(y);
    for (ValueId t : d.terminals)
      need(t);
  }
  // The list's own order as far as it goes: the first one that waits for none.
  std::vector<Derivation> ordered;
  std::vector<bool> placed(derivations_.size(), false);
  std::priority_queue<size_t, std::vector<size_t>, std::greater<>> ready;
  for (size_t i = 0; i < derivations_.size(); ++i)
    if (waiting[i] == 0)
      ready.push(i);
  while (!ready.empty()) {
    const size_t i = ready.top();
    ready.pop();
    placed[i] = true;
    ordered.push_back(derivations_[i]);
    for (size_t next : behind[i])
      if (--waiting[next] == 0)
        ready.push(next);
  }
  for (size_t i = 0; i < derivations_.size(); ++i)
    if (!placed[i])
      for (ValueId x : derivations_[i].solved)
        avail_[flow_.canonical(x)] = Availability::None;
  derivations_ = std::move(ordered);
}

} // namespace inv::opt
