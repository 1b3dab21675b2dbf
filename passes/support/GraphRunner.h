// Runs a graph node by node, outside the executor: for values that the
// compiler wants to know (a parameter's transposed copy, the shapes of all
// values for sample inputs) and for tests that look at every value.
#pragma once

#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include <ATen/core/ivalue.h>

namespace torch::jit {
struct Block;
struct Graph;
struct Node;
struct Value;
} // namespace torch::jit

namespace inv::opt {

using ValueMap = std::unordered_map<const torch::jit::Value*, c10::IValue>;

/// Runs one node on the values in `env`, adding its results.
void runOneNode(const torch::jit::Node* n, ValueMap& env);

/// What to do beside running a graph. All see nodes of inner blocks, too.
struct RunHooks {
  /// Runs the node itself (adding its results) and returns true, or leaves it.
  std::function<bool(const torch::jit::Node*, ValueMap&)> instead;
  /// Called behind each node that was run.
  std::function<void(const torch::jit::Node*)> after;
  /// Called as a block begins to run, and as it has ended.
  std::function<void(const torch::jit::Block*)> begins, ended;
};

/// Runs the nodes of `block` in order on the values in `env` (which must hold
/// the block's inputs and the free values), adding every value computed; blocks
/// of ifs and loops are run too. Throws what the operators throw.
void runBlock(const torch::jit::Block* block, ValueMap& env,
              const RunHooks& hooks = {});

/// Runs `graph` on `inputs` (self first); returns its outputs. `env`, where
/// given, receives every value computed (of a loop's body: the last ones).
std::vector<c10::IValue> runGraph(const torch::jit::Graph& graph,
                                  const std::vector<c10::IValue>& inputs,
                                  ValueMap* env = nullptr,
                                  const RunHooks& hooks = {});

/// The value of `v` where it can be computed from `self`'s attributes and
/// constants alone; nothing otherwise.
std::optional<c10::IValue> evaluateStatic(const torch::jit::Value* v,
                                          const c10::IValue& self);

} // namespace inv::opt
