// Inverse rules: which operand of an operator can be computed back from its
// result, when, and by which code.
//
// A family of operators is one file of this folder and one line of Rules.def.
// Its function looks at a node and appends a Candidate for each operand that
// could be undone; it changes nothing. Whether a candidate is taken is the
// analysis's business (analysis/Sweep.h).
#pragma once

#include "passes/analysis/Dataflow.h"
#include "passes/analysis/Elements.h"
#include "passes/support/Options.h"
#include "passes/support/Remarks.h"

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace torch::jit {
struct Graph;
struct Node;
} // namespace torch::jit

namespace inv::opt {

/// When a rule may fire (docs/analysis.md, "Two passes by rule class").
enum class RuleClass {
  Free,          ///< layout, split and join: moves values, exact
  Sum,           ///< add and subtract another operand
  Product,       ///< multiply or divide by another operand
  Scale,         ///< multiply by a known non-zero constant, add a constant
  Annotated,     ///< a module whose inverse the user wrote
  Solve,         ///< linear layers
  Pointwise,     ///< monotone activations
  Normalisation, ///< batch norm and its like
};

const char* nameOf(RuleClass);

/// Writes the inverse of one node into the step's `inverse` method. Given to
/// Candidate::emit by the outliner.
class InverseBuilder {
public:
  virtual ~InverseBuilder() = default;
  virtual torch::jit::Graph& graph() = 0;
  /// The i-th tensor result of the node, inside the inverse.
  virtual torch::jit::Value* result(size_t i) = 0;
  /// A value of the model's graph, inside the inverse: one of the candidate's
  /// `others`, or a constant.
  virtual torch::jit::Value* operand(torch::jit::Value* original) = 0;
  /// Whether a solved operand exists outside of the step, so that its sizes can
  /// be asked for. What the step makes itself and undoes again does not.
  virtual bool isOutside(torch::jit::Value* solved) = 0;
  /// size(v, dim) and size(v) of a solved operand; recorded in forward and
  /// handed to the inverse, since the operand is gone there.
  virtual torch::jit::Value* sizeOf(torch::jit::Value* solved, int64_t dim) = 0;
  virtual torch::jit::Value* sizesOf(torch::jit::Value* solved) = 0;
  /// A small tensor that follows from a solved operand (its mean): `make`
  /// appends the code that computes it, given what stands for a value of the
  /// model's graph there. That code runs before the step, without a gradient;
  /// the inverse is handed the result. `name` tells several apart.
  using Lookup = std::function<torch::jit::Value*(torch::jit::Value*)>;
  virtual torch::jit::Value*
  recorded(torch::jit::Value* solved, const std::string& name,
           const std::function<torch::jit::Value*(torch::jit::Graph&,
                                                  const Lookup&)>& make) = 0;
  /// The body of a method of the module that `callNode` (a prim::CallMethod)
  /// calls, on `arguments`; returns its results, a tuple taken apart.
  virtual std::vector<torch::jit::Value*>
  call(torch::jit::Node* callNode, const std::string& method,
       const std::vector<torch::jit::Value*>& arguments) = 0;
};

/// One way to undo a node.
struct Candidate {
  const char* rule = ""; ///< e.g. "sum", for reports
  RuleClass cls = RuleClass::Free;
  /// Operands computed back, in the order in which `emit` returns them.
  std::vector<ValueId> solved;
  /// Which elements of each solved operand it gives; empty: all of all. The
  /// others may hold anything in what `emit` returns.
  std::vector<Elements> elements;
  /// An element of what is solved follows from the same element of the node's
  /// one result: where only a part of the result is known, so is that part of
  /// the operand.
  bool elementwise = false;
  /// Operands that the inverse reads beside the node's results.
  std::vector<ValueId> others;
  /// Bound on |error in solved| / |error in result|, 1 where exact in real
  /// arithmetic without growth.
  double amplification = 1.0;
  /// The inverse asks for the sizes of what it solves, or records something of
  /// it: it must exist in the method.
  bool needsSizes = false;
  /// It does so only where InverseBuilder::isOutside().
  bool sizesOptional = false;
  /// The result may have more elements than what is solved, none of which is a
  /// repetition: a padding, a linear layer.
  bool resizes = false;
  /// Appends the inverse to builder.graph() and returns the solved values.
  std::function<std::vector<torch::jit::Value*>(InverseBuilder&)> emit;
  /// Where that bound depends on values: appends code that gives it for the
  /// values at hand, as a tensor of one element (0 or less: not invertible
  /// here). Reads what the inverse may read. The step evaluates it in forward
  /// (abi::kGrowth); without it, `amplification` is what counts.
  std::function<torch::jit::Value*(InverseBuilder&)> growth;
  /// Set where the node would fit but a condition fails: then nothing of the
  /// above is used, and the reason is reported.
  std::optional<Reason> refused;
  std::string detail; ///< of the refusal
  /// The refusal is worth telling only where a chain ends at the node: networks
  /// are full of such nodes that nobody meant to be undone.
  bool quiet = false;
};

/// What a rule may look at.
struct RuleContext {
  const Dataflow& flow;
  const Options& options;
  /// The model, for the saved values of weights; None where unknown.
  c10::IValue self;
  /// What candidatesOf() found. Looking at a large weight costs seconds, and
  /// the analysis asks for a node's candidates again and again.
  mutable std::unordered_map<NodeId, std::vector<Candidate>> candidates = {};
};

using RuleFunction = void (*)(NodeId, const RuleContext&,
                              std::vector<Candidate>&);

struct RuleFamily {
  const char* name;
  RuleFunction candidates;
  const char* sentence;
};

/// Why `x` cannot be computed back from `y` by arithmetic, told from the sample
/// inputs: y is larger, or the dtype is too narrow or has no gradient. Nothing
/// where there are no samples; then the step asks at run time.
std::optional<Reason> arithmeticProblem(const ValueInfo& x, const ValueInfo& y);

/// All families, in the order of Rules.def.
const std::vector<RuleFamily>& allRules();

/// Candidates of all families for a node; found once, then the context's.
const std::vector<Candidate>& candidatesOf(NodeId n,
                                           const RuleContext& context);

#define RULE(name, function, sentence)                                         \
  void function(NodeId, const RuleContext&, std::vector<Candidate>&);
#include "passes/rules/Rules.def"
#undef RULE

} // namespace inv::opt
