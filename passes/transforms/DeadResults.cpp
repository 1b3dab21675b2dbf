// Part of canonicalize. What ifs and loops hand on for nothing.
//
//   %y, %f = prim::If(%c)                     %y = prim::If(%c)
//     block0():                                 block0():
//       %f0 = ...                                 %f0 = ...
//       %y0 = aten::add(%x, %f0)                  %y0 = aten::add(%x, %f0)
//       -> (%y0, %f0)                    ==>      -> (%y0)
//     block1():                                 block1():
//       -> (%x, %z)                               -> (%x)
//
// Scripting hands on every variable that a branch or a body assigns, read or
// not. To the analysis such a value leaves the block: the network of a coupling
// could not become part of a step.
//
// Removed are results that nobody reads but to hand them on to such a one (of a
// loop: neither behind it nor in the next iteration), and those that are one
// value from before, whichever way the code takes. Who reads these reads that
// value.
//
// Why it is sound: the nodes stay, and compute what they did.
#include "passes/transforms/DeadResults.h"

#include "passes/analysis/Effects.h"
#include "passes/support/GraphUtil.h"

#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A result of an if or a loop; of a loop, what its body is given as well.
using Result = std::pair<Node*, size_t>;

bool isLoop(const Node* n) { return n->kind() == prim::Loop; }

bool branches(const Node* n) { return n->kind() == prim::If || isLoop(n); }

/// The result that is nothing but the value that is used.
std::optional<Result> passedTo(const Use& use) {
  if (isLoop(use.user) && use.offset >= 2)
    return Result(use.user, use.offset - 2);
  Node* owner = use.user->owningBlock()->owningNode();
  if (use.user->kind() != prim::Return || !owner || !branches(owner))
    return std::nullopt;
  if (isLoop(owner) && use.offset == 0) // whether it goes on
    return std::nullopt;
  return Result(owner, use.offset - isLoop(owner));
}

/// The value from before that the result is in any case; null if there is none.
Value* onlySource(const Result& r) {
  const auto& [n, i] = r;
  if (!isLoop(n)) {
    Value* yes = n->blocks()[0]->outputs()[i];
    return yes == n->blocks()[1]->outputs()[i] ? yes : nullptr;
  }
  const Block* body = n->blocks()[0];
  return body->outputs()[i + 1] == body->inputs()[i + 1] ? n->input(i + 2)
                                                         : nullptr;
}

/// Whoever reads the result reads what it is.
bool bypass(const Result& r) {
  const auto& [n, i] = r;
  Value* source = onlySource(r);
  if (!source || *source->type() != *n->output(i)->type())
    return false;
  bool changed = n->output(i)->hasUses();
  if (isLoop(n)) {
    Value* given = n->blocks()[0]->inputs()[i + 1];
    changed |= given->uses().size() > 1; // its own result is one
    given->replaceAllUsesWith(source);
  }
  n->output(i)->replaceAllUsesWith(source);
  return changed;
}

std::vector<Use> usesOf(const Result& r) {
  const auto& [n, i] = r;
  std::vector<Use> uses = n->output(i)->uses();
  if (isLoop(n)) {
    const auto& inside = n->blocks()[0]->inputs()[i + 1]->uses();
    uses.insert(uses.end(), inside.begin(), inside.end());
  }
  return uses;
}

/// Those that nobody reads but to hand them on to such a result.
std::set<Result> deadResults(const std::vector<Result>& results) {
  std::set<Result> dead(results.begin(), results.end());
  std::map<Result, std::vector<Result>> sources;
  std::vector<Result> needed;
  const auto need = [&](const Result& r) {
    if (dead.erase(r) != 0)
      needed.push_back(r);
  };
  for (const Result& r : results)
    for (const Use& use : usesOf(r)) {
      if (const auto to = passedTo(use))
        sources[*to].push_back(r);
      else
        need(r);
    }
  while (!needed.empty()) {
    const Result r = needed.back();
    needed.pop_back();
    for (const Result& source : sources[r])
      need(source);
  }
  return dead;
}

/// All at once: they may read each other.
void erase(const std::set<Result>& dead) {
  for (auto r = dead.rbegin(); r != dead.rend(); ++r) {
    for (Block* block : r->first->blocks())
      block->eraseOutput(r->second + isLoop(r->first));
    if (isLoop(r->first))
      r->first->removeInput(r->second + 2);
  }
  for (auto r = dead.rbegin(); r != dead.rend(); ++r) {
    if (isLoop(r->first))
      r->first->blocks()[0]->eraseInput(r->second + 1);
    r->first->eraseOutput(r->second);
  }
}

} // namespace

bool removeDeadResults(Graph& graph) {
  bool changed = false;
  std::vector<Result> results;
  for (Node* n : allNodes(graph.block())) {
    // One without any reader is removed whole.
    if (!branches(n) || (!n->hasUses() && effectOf(n) == EffectKind::Pure))
      continue;
    for (size_t i = 0; i < n->outputs().size(); ++i) {
      changed |= bypass({n, i});
      results.emplace_back(n, i);
    }
  }
  const std::set<Result> dead = deadResults(results);
  erase(dead);
  return changed || !dead.empty();
}

} // namespace inv::opt
