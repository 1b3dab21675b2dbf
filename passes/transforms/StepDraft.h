// A step before it is written: which derivations and nodes make it up, and what
// goes in and out. Made from the analysis's result; changes nothing.
#pragma once

#include "passes/analysis/Invertibility.h"

#include <string>
#include <vector>

namespace inv::opt {

enum class StepForm { Coupling, Bijection, Checkpoint };

const char* nameOf(StepForm);

struct StepDraft {
  StepForm form = StepForm::Coupling;
  /// In the order of the inverse program.
  std::vector<Derivation> derivations;
  /// Nodes of the conditioner in program order, those included that are only
  /// copied (views, integers): `owned` tells which really move.
  std::vector<NodeId> conditioner;
  /// Nodes on the states themselves, in program order: the function.
  std::vector<NodeId> stream;
  /// Nodes that leave the method for the step.
  std::vector<NodeId> owned;

  /// Parts of the states that the method computes (m * x) and the conditioner
  /// reads: the inverse is handed them with the conditioner's results.
  std::vector<ValueId> given;

  std::vector<ValueId> xs;    ///< states that are undone
  std::vector<ValueId> zs;    ///< activations that the conditioner reads
  std::vector<ValueId> ys;    ///< states that the step makes
  std::vector<ValueId> aux;   ///< what function and inverse read of it
  std::vector<ValueId> sides; ///< further results read by others
  /// Parameters, buffers and the like, by who reads them.
  std::vector<ValueId> captures;
  std::vector<ValueId> functionCaptures; ///< a subset of captures
  std::vector<ValueId> scratch;          ///< a subset of captures
  /// Ints, flags, ... that are not constants.
  std::vector<ValueId> extras;
  std::vector<ValueId> functionExtras; ///< a subset of extras
};

/// Where it stands in the graph: the last of its nodes there.
int32_t positionOf(const StepDraft& draft, const Dataflow& flow);

/// Why derivations could not become a step.
struct DraftRefusal {
  NodeId node = -1;
  Reason reason = Reason::Untraceable;
  std::string detail;
  std::vector<Derivation> derivations; ///< all that the step would have held
};

/// Groups derivations into steps. Derivations that share conditioner nodes form
/// one step; layout and scale derivations join the step that reads their
/// result, or stand alone.
std::vector<StepDraft> draftSteps(const Invertibility& found,
                                  const RuleContext& context,
                                  std::vector<DraftRefusal>& refusals);

/// True where copying the node costs nothing and it may stay in the method as
/// well: views, integer arithmetic, constants.
bool isCopied(const Dataflow& flow, NodeId n);

} // namespace inv::opt
