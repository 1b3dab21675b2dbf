// What training a method keeps for backward, byte by byte: what steps drop,
// what stays, why, and where. Read-only; a value to print.
//
// With sample inputs every figure is of a real call (analysis/TrainingRun.h) of
// the method as it was written, with gradients asked of its parameters and
// inputs; without, storages are counted, by the table of saved(op). The sum
//
//     before = dropped + streams + the bytes of `kept`
//
// always holds: each kept storage is under a reason of the closed list
// (Reasons.def), and nothing is left over.
#pragma once

#include "passes/analysis/Invertibility.h"
#include "passes/analysis/MethodFacts.h"

#include <iosfwd>
#include <string>
#include <vector>

namespace inv::opt {

/// A step as the accounting sees it; made by form-steps.
struct StepOutline {
  std::string kind;          ///< coupling, bijection or checkpoint
  std::vector<NodeId> nodes; ///< those that leave the block for it, ascending
  std::vector<ValueId> consumed; ///< states that it hands over
  /// States that it makes or reads: it holds each that no step consumes.
  std::vector<ValueId> made, read;
  std::vector<ValueId> captures; ///< tensors that it keeps
};

/// A block with its steps: the method, or a block of an if or a loop.
struct AccountedBlock {
  const RuleContext& rules;
  std::vector<StepOutline> steps;
  std::vector<int32_t> order;    ///< as in Schedule
  std::vector<Refusal> refusals; ///< by ascending node
};

/// Storages that stay, for one reason at one place.
struct KeptRow {
  Reason reason = Reason::NotInvertible;
  int64_t amount = 0; ///< bytes, or storages without sample inputs
  int64_t storages = 0;
  bool byStep = false;  ///< kept only because of steps: not in `before`
  bool callers = false; ///< of an input or output of the method
  std::string module;   ///< path of the submodule, or empty
  std::string source;   ///< "net.py:41:8", or empty
  std::string op;       ///< the operator that keeps them
  std::string node;     ///< the first such node, on one line
};

/// A submodule that is written as one block (of a stack of blocks: one of
/// them).
struct BlockRow {
  std::string module;     ///< empty: the method's own code
  bool rewritten = false; ///< some of its nodes are in a step
  int64_t steps = 0;      ///< that end in it
  int64_t before = 0, after = 0;
  std::vector<Reason> reasons; ///< of what stays, those of most bytes first
};

/// An estimate from the schedule: tensors of the method that are alive at once
/// in a training step, gradients of activations included, parameters and theirs
/// not. Operators' scratch memory is not in it, nor what the loss needs.
struct Peak {
  int64_t bytes = 0;
  bool inBackward = false;
  std::string module, source, op; ///< of the node or step at that time
};

struct Accounting {
  std::string method;
  bool inBytes = false; ///< otherwise amounts are numbers of storages
  int64_t before = 0;   ///< kept by the plain method
  int64_t dropped = 0;  ///< of these, no longer kept, because of steps
  int64_t streams = 0;  ///< saved by handing streams on instead of copying them
  int64_t after = 0;    ///< kept by the rewritten method
  int64_t steps = 0;
  std::vector<KeptRow> kept;           ///< most first
  std::vector<BlockRow> blocks;        ///< in the order of the method
  std::optional<Peak> plainPeak, peak; ///< with sample inputs
  /// Operators that do not tell what they keep: not in the sums.
  std::vector<std::string> silent;
};

/// `blocks`: the method first, outer ones before inner ones. `leaving`: see
/// leavingValues().
Accounting account(const PassContext& context, const MethodFacts& facts,
                   const std::vector<AccountedBlock>& blocks,
                   const std::unordered_set<const torch::jit::Value*>& leaving);

/// The table for people.
void print(std::ostream& out, const Accounting& accounting);

} // namespace inv::opt
