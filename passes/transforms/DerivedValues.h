// What follows from parameters, buffers and constants alone (exp(logs),
// W - W.t(), 1 - m, P @ L @ U) and is read by steps.
//
// Handed to a step as a capture it would be held until backward: by each step
// its own, so that memory grows with depth. A step is handed the parameters
// instead, which are there anyway, and its conditioner computes the value, in
// forward and again in backward, as it does with everything else. The operators
// and their order stay the same, and so do the results.
//
// Not where that would cost more than it saves, or be wrong:
//   views       of a parameter hold no memory: captured as they are;
//   shared      what several steps read is computed once and held once, however
//               many they are: each of them would compute, and differentiate,
//               it anew. Two are too many for a product or a factorization of
//               matrices (and any operator not known to be cheap), five for an
//               elementwise operator. What is behind it is run again from
//               there;
//   written     attributes that the method writes: the value is that of the
//               moment at which it was computed;
//   ifs, loops  values made by them, and by operators with an effect.
#pragma once

#include "passes/analysis/Dataflow.h"
#include "passes/transforms/WrittenAttributes.h"

#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace inv::opt {

class DerivedValues {
public:
  /// `reads`: for each step, what it reads beside its states.
  DerivedValues(const Dataflow& flow,
                const std::vector<std::vector<ValueId>>& reads);

  /// The nodes that a step runs to get `v`, ascending; none where `v` is handed
  /// to it.
  std::vector<NodeId> nodesFor(ValueId v) const;

private:
  bool canRunAgain(NodeId n) const;
  bool isShared(NodeId n) const;
  void countSteps(const std::vector<std::vector<ValueId>>& reads);
  void collect(ValueId v, bool sharedToo,
               std::unordered_set<NodeId>& nodes) const;

  const Dataflow& flow_;
  const WrittenAttributes written_;
  std::unordered_map<NodeId, int> steps_; ///< that need the node
};

} // namespace inv::opt
