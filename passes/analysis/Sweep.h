// The sweep: one walk backwards over the schedule that applies the rules.
// Internal to analysis/; findInvertibility() runs it, judges, and repeats.
#pragma once

#include "passes/analysis/Invertibility.h"

#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace inv::opt {

class Sweep {
public:
  Sweep(const RuleContext& context, const Bans& bans);

  /// Pass 1: free, sum, scale and annotated rules. Pass 2: solve and pointwise
  /// rules too, on nodes that no conditioner of pass 1 holds.
  void run();

  const std::vector<Derivation>& derivations() const { return derivations_; }
  const std::vector<Availability>& availability() const { return avail_; }
  /// Derivations that were dropped after they had hidden something from the
  /// sweep, to be banned in the next one: recompute derivations, inside of
  /// which something lies; parts that led nowhere, where the whole could be
  /// held.
  const Bans& hindering() const { return hindering_; }
  /// What is told of such parts, since the next sweep will not see them.
  std::vector<Refusal> takeLost() { return std::move(lost_); }
  std::vector<Refusal> takeRefusals() { return std::move(refusals_); }

private:
  /// What a backward search for a conditioner found.
  struct Slice {
    bool ok = false;
    Reason why = Reason::BudgetExceeded; ///< where not ok
    std::string detail;
    std::vector<NodeId> nodes;
    std::vector<ValueId> terminals;
    std::vector<ValueId> anchors; ///< terminals that were not available yet
  };
  struct Choice {
    int candidate = -2; ///< -2: none, -1: recompute
    Slice slice;
    std::vector<Elements> elements; ///< see Derivation
    bool ofPart = false;            ///< see Derivation
    /// The solved operand could as well be run again, from a value that is
    /// alive beyond the node.
    bool afar = false;
    bool needed = false;
    /// Inputs of the method that the conditioner starts from and that the
    /// solved operand itself comes from: such a conditioner is what the model
    /// computed the states by, not the network between two of them.
    int origins = 0;
  };

  void sweepOnce();
  void process(NodeId n);
  void keepPlain(NodeId n);
  bool classAllowed(RuleClass cls) const;
  bool isWorthAnAnchor(const std::vector<Candidate>& candidates) const;
  bool anyAvailable(NodeId n) const;
  bool allAvailable(const std::vector<ValueId>& vs) const;
  bool resultsAvailable(NodeId n) const;
  bool knownInPart(NodeId n) const;
  Elements knownPart(ValueId v) const;
  bool findElements(NodeId n, const Candidate& c, Choice& choice) const;
  void learn(const Derivation& d, double growth);
  bool partsCover(ValueId v) const;
  void dropUnfinished();
  std::vector<ValueId> anchorsFor(NodeId n) const;
  Choice choose(NodeId n, const std::vector<Candidate>& candidates);
  Choice tryCandidate(NodeId n, const Candidate& c, int index);
  Choice tryRecompute(NodeId n, const std::vector<Candidate>& candidates);
  /// Where the search for a conditioner may stop beside available values.
  enum class Stops {
    None,
    Lasting, ///< values alive beyond the node, to be held; inputs of the method
    States,  ///< and results of sums: a state that nobody reads behind the node
  };
  Slice slice(const std::vector<ValueId>& roots,
              const std::vector<ValueId>& solved, NodeId at, Stops stops,
              bool inputsToo = true) const;
  bool isState(ValueId v) const;
  bool recomputable(const std::vector<ValueId>& solved, const Slice& s) const;
  void commit(NodeId n, const Candidate* c, const Choice& choice,
              const std::vector<ValueId>& resultAnchors);
  void refuseUnfit(NodeId n, const std::vector<Candidate>& candidates);
  void refuse(NodeId n, Reason reason, std::string detail = "");
  void explain(NodeId n, const Candidate& c, const Slice& failed);
  void explainKept(NodeId n, const Candidate& c);
  bool isSum(NodeId n) const;
  std::unordered_set<ValueId> reachedFrom(const std::vector<ValueId>& from,
                                          NodeId n) const;
  bool isParallelUpdate(NodeId n, const Candidate& c) const;
  void explainBreaks();
  /// By how much errors of the node's results may have grown, as far as the
  /// rules say so with a number.
  double growthOf(NodeId n) const;
  void dropDoubledRecomputations();
  void orderDerivations();
  void undoFreeProducers(const std::vector<ValueId>& fresh);
  bool available(ValueId v) const;
  void makeAvailable(ValueId v, Availability a);

  const RuleContext& context_;
  const Dataflow& flow_;
  const Bans& bans_;
  int pass_ = 1;
  std::vector<Availability> avail_; ///< by ValueId, at the canonical value
  std::vector<double> growth_;      ///< by canonical ValueId, where rebuilt
  /// Parts of values, by canonical ValueId, of which the whole is not known yet
  /// or follows from them.
  std::unordered_map<ValueId, std::vector<Elements>> parts_;
  std::set<ValueId> joined_;   ///< canonical values that their parts cover
  std::vector<bool> interior_; ///< node is part of a conditioner
  std::vector<bool> done_;     ///< node made a derivation
  std::vector<Derivation> derivations_;
  std::vector<Refusal> refusals_, lost_;
  Bans hindering_;
};

} // namespace inv::opt
