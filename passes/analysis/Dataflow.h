// A block of a graph as dense tables: who makes a value, who reads it, what
// kind of value it is, which storage it lives in. Read-only; built once per
// analysis and valid until the graph changes.
//
// Lists and tuples are looked through: the operands of `cat([a, b])` are a and
// b, the results of `x.chunk(2)` the two pieces. Blocks of ifs and loops inside
// belong to their node: what they read, the node reads.
//
// A block of an if or a loop is described as a method is. What it reads from
// around it, and what a loop hands to each iteration, are its inputs; what it
// hands on is its output. What a loop hands on is what the next iteration gets:
// both are one storage.
#pragma once

#include "passes/analysis/Effects.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
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

struct Saved;

/// Index into Dataflow::values / Dataflow::nodes; -1 is none.
using ValueId = int32_t;
using NodeId = int32_t;

enum class Origin {
  NonTensor,  ///< an int, a flag, a module, a list of ints, ...
  Constant,   ///< a tensor constant
  Parameter,  ///< read from an attribute (parameter or buffer)
  Derived,    ///< computed from parameters and constants alone
  Activation, ///< depends on the method's inputs (or is random)
};

struct ValueInfo {
  torch::jit::Value* value = nullptr;
  Origin origin = Origin::NonTensor;
  /// A gradient of it is asked for: a parameter, or computed from one or from
  /// an input of the method. (Inputs are taken to ask for gradients, as those
  /// of an inner part of a model do.)
  bool asksGradient = false;
  /// Not an activation, and no gradient is asked for: a constant, a buffer, or
  /// computed from such.
  bool fixed = false;
  NodeId def = -1;             ///< -1: an input of the block
  std::vector<NodeId> readers; ///< ascending, each once
  /// The value whose storage this one shares (itself, where it has its own).
  ValueId storage = -1;
  /// The value that this one is in the ordinary case: a result of
  /// inv::resplit is its part. Itself otherwise.
  ValueId canonical = -1;
  int64_t bytes = -1; ///< of the tensor, where shapes are known
  /// Of the tensor on the sample inputs, where there are any.
  std::optional<std::vector<int64_t>> sizes;
  std::optional<c10::ScalarType> dtype;
  bool graphOutput = false; ///< (part of) what the block hands on
  bool graphInput = false;
  /// It stays, whatever becomes of the block: a method's inputs and outputs,
  /// which the caller has; what somebody around an if or a loop keeps.
  bool keptAround = false;
  /// It is there when the block's backward begins.
  bool there = false;
  /// Handed on, and nobody around the block keeps or rebuilds it: the step that
  /// makes it holds it, unless the next iteration takes it.
  bool unclaimed = false;
  /// Some operator that the canonicaliser had to leave writes this storage.
  bool writtenInPlace = false;
  bool isActivation() const { return origin == Origin::Activation; }
};

struct NodeInfo {
  torch::jit::Node* node = nullptr;
  int32_t position = 0; ///< in the graph's own order
  EffectKind effect = EffectKind::Pure;
  /// A list or tuple construction or unpacking that operands and results look
  /// through.
  bool glue = false;
  /// It runs under torch.no_grad().
  bool withoutGrad = false;
  /// A view: makes no storage of its own, costs nothing to run again.
  bool view = false;
  std::vector<ValueId> operands; ///< tensors and non-tensors, lists expanded
  std::vector<ValueId> results;  ///< tensors and non-tensors, lists expanded
  std::vector<ValueId> saved;    ///< activations that its derivative keeps
  /// Weight of what it keeps beside: a dropout mask, the indices of a pooling.
  int64_t savedOwn = 0;
  bool savedKnown = true; ///< the operator is in the table of saved(op)
  bool savesAnything() const { return !saved.empty() || savedOwn > 0; }
};

/// What becomes of a value around an if or a loop, as far as it is known: see
/// ValueInfo.
struct Surroundings {
  bool keptAround = false, there = false;
};

class Dataflow {
public:
  /// `sampleValues`, where given, are the values of a run on sample inputs
  /// (runGraph): bytes are taken from there. `self`, where given, is the
  /// module: it tells buffers from parameters.
  explicit Dataflow(
      torch::jit::Graph& graph,
      const std::unordered_map<const torch::jit::Value*, c10::IValue>*
          sampleValues = nullptr,
      c10::IValue self = {});
  /// A block of a node of `outer`, which must outlive this. `around` tells of
  /// values of `outer` that the block reads or hands on.
  Dataflow(const Dataflow& outer, torch::jit::Block& block,
           const std::function<Surroundings(ValueId)>& around);
  Dataflow(const Dataflow&) = delete;
  Dataflow& operator=(const Dataflow&) = delete;

  torch::jit::Block& block() const { return block_; }
  /// Of the surrounding block; null for a method.
  const Dataflow* outer() const { return outer_; }
  /// The block is the body of a loop.
  bool isLoop() const;
  const std::vector<ValueInfo>& values() const { return values_; }
  const std::vector<NodeInfo>& nodes() const { return nodes_; }
  const ValueInfo& value(ValueId v) const { return values_[v]; }
  const NodeInfo& node(NodeId n) const { return nodes_[n]; }
  /// -1 where the value is none of the block's.
  ValueId idOf(const torch::jit::Value* v) const;
  NodeId idOf(const torch::jit::Node* n) const;
  /// The block's own node in whose blocks `n` stands, or `n`; -1 for the
  /// block's inputs and outputs, and for what lies around it.
  NodeId topLevel(const torch::jit::Node* n) const;

  ValueId canonical(ValueId v) const { return values_[v].canonical; }
  ValueId storage(ValueId v) const { return values_[v].storage; }
  /// Weight of a storage in bytes, or 1 where no shapes are known.
  int64_t weight(ValueId v) const;
  bool shapesKnown() const { return shapesKnown_; }
  /// Position of the last reader, or -1.
  NodeId lastReader(ValueId v) const;
  /// True if `v` is computed from `input`, an input of the graph, or is it.
  bool comesFrom(ValueId v, ValueId input) const;

private:
  using Samples = std::unordered_map<const torch::jit::Value*, c10::IValue>;
  using Around = std::function<Surroundings(ValueId)>;
  void fill();
  void readSamples();
  void addValue(torch::jit::Value* v, NodeId def);
  void addOuter(torch::jit::Value* v, const Around& around);
  void markHandedOn(const Around& around);
  void joinCarried();
  bool isWrittenBeside(ValueId v, const torch::jit::Node* node) const;
  void addNode(torch::jit::Node* n);
  void resolveOperands(NodeInfo& info);
  void resolveResults(NodeInfo& info);
  void classify(NodeInfo& info);
  bool isBuffer(const torch::jit::Node* read) const;
  void findStorages(NodeInfo& info);
  void markContexts();
  void fillReaders();
  void fillSaved();
  void keepSaved(NodeInfo& info, const Saved& saved);
  bool asksGradient(const torch::jit::Value* v) const;
  bool mayAskGradient(const torch::jit::Value* v) const;
  void markWrites();

  torch::jit::Block& block_;
  const Dataflow* outer_ = nullptr;
  const Samples* samples_ = nullptr;
  c10::IValue self_;
  std::vector<ValueInfo> values_;
  std::vector<NodeInfo> nodes_;
  std::unordered_map<const torch::jit::Value*, ValueId> valueIds_;
  std::unordered_map<const torch::jit::Node*, NodeId> nodeIds_;
  /// By storage: the nodes that may write it; -1 for those around the block.
  std::unordered_map<ValueId, std::vector<NodeId>> writers_;
  /// Of the outer block's storages and canonical values: the first input that
  /// is one.
  std::unordered_map<ValueId, ValueId> sameStorage_, sameValue_;
  bool shapesKnown_ = false;
  /// By input: what is computed from it. Filled when it is asked for.
  mutable std::unordered_map<ValueId, std::vector<bool>> comesFrom_;
};

/// "%h.3" of a value, for messages.
std::string nameOf(const torch::jit::Value* v);

/// True for operators whose result is (or may be) a view of their first input.
bool makesView(const torch::jit::Node* n);

} // namespace inv::opt
