// What the analysis knows of a method before it starts: the graph as tables,
// the values of a run on the sample inputs, the model's weights.
#pragma once

#include "passes/Model.h"
#include "passes/analysis/TrainingRun.h"
#include "passes/rules/Rule.h"

#include <optional>

namespace inv::opt {

/// self and the sample inputs of the method; empty where none were given for
/// it. Throws Error (BadInput) where they do not fit and it is the only method.
std::vector<c10::IValue> sampleArguments(const PassContext& context);

/// Valid until the method's graph changes. Throws what the method throws on the
/// sample inputs.
struct MethodFacts {
  explicit MethodFacts(const PassContext& context);
  MethodFacts(const MethodFacts&) = delete;
  MethodFacts& operator=(const MethodFacts&) = delete;

  /// One call on the sample inputs; nothing without them.
  std::optional<TrainingRun> run;
  Dataflow flow;
  RuleContext rules;
};

} // namespace inv::opt
