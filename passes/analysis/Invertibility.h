// What backward reads, and what of it can be rebuilt from what.
//
// One sweep backwards over the schedule applies inverse rules (passes/rules)
// and forward rules; the derivations it makes, in order, are the inverse
// program. A judge then drops those that do not pay. The algorithm, its traps
// and the measurements behind its choices are in docs/analysis.md.
#pragma once

#include "passes/analysis/Dataflow.h"
#include "passes/rules/Rule.h"

#include <iosfwd>
#include <set>
#include <string>
#include <vector>

namespace inv::opt {

/// Why a value is there in backward.
enum class Availability {
  None,    ///< it is not
  Output,  ///< the caller has it
  Held,    ///< a plain operator keeps it for its own derivative
  Anchor,  ///< a step keeps it, and nobody else does
  Rebuilt, ///< a derivation computes it back
};

const char* nameOf(Availability);

/// One application of a rule: `solved` = inverse(results of node, others),
/// where the others come out of the conditioner.
struct Derivation {
  NodeId node = -1;
  /// Index into candidatesOf(node); -1 for a recompute derivation, which undoes
  /// nothing and re-runs the conditioner of `others`.
  int candidate = -1;
  std::string rule;
  RuleClass cls = RuleClass::Sum;
  std::vector<ValueId> solved;
  /// Which elements of each are solved; empty: all of all.
  std::vector<Elements> elements;
  /// The node's result was known in part only.
  bool ofPart = false;
  std::vector<ValueId> others;
  /// Nodes that are run again to get `others`, ascending.
  std::vector<NodeId> conditioner;
  /// Activations that the conditioner starts from, ascending.
  std::vector<ValueId> terminals;
  /// Values that became anchors for it.
  std::vector<ValueId> anchors;
  double amplification = 1.0;
  bool needsSizes = false, sizesOptional = false; ///< see Candidate
  bool resizes = false;                           ///< see Candidate
};

/// Whether it gives only some of the elements of what it solves.
bool solvesPart(const Derivation& d);
/// The same of d.solved[i] alone.
bool solvesPart(const Derivation& d, size_t i);

/// A candidate that was looked at and not taken.
struct Refusal {
  NodeId node = -1;
  Reason reason = Reason::NotInvertible;
  std::string detail;
};

/// Derivations that are not to be made: of a node, for a solved value (-1: the
/// recompute derivation).
using Bans = std::set<std::pair<NodeId, ValueId>>;

/// Adds what keeps the derivation from being made again.
void ban(const Derivation& d, Bans& bans);

struct Invertibility {
  /// In the order of the inverse program (last node first).
  std::vector<Derivation> derivations;
  std::vector<Availability> availability; ///< by ValueId
  std::vector<Refusal> refusals;          ///< by ascending node
  /// Bytes (or values, without shapes) that plain autograd keeps, and that
  /// remain kept under the derivations.
  int64_t keptBefore = 0, keptAfter = 0;
  /// Storages no longer kept, ascending.
  std::vector<ValueId> dropped;
};

/// Read-only; see the file comment. Without the derivations of `bans`.
Invertibility findInvertibility(const RuleContext& context, Bans bans = {});

/// The result as text: one line per derivation, then what is held and why.
void print(std::ostream& out, const Invertibility& result,
           const Dataflow& flow);

} // namespace inv::opt
