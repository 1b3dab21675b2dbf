// Which values may share storage, told conservatively.
#pragma once

#include <unordered_map>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// Whether the operator's outputs are always new storage, laid out densely.
/// False means "not known": views, and operators that may return their operand.
bool makesNewStorage(const torch::jit::Node* node);

/// Whether the node makes a list that only `cat` and `stack` read: they copy
/// the elements, so nobody gets at the one through the other.
bool makesListOfJoin(const torch::jit::Node* node);

/// A partition of the graph's tensor-holding values: values of different groups
/// never share storage. Values of one group may.
///
/// torch::jit::AliasDb answers the same question from the schemas' alias
/// annotations. It cannot be used alone: dropout in evaluation, type_as,
/// einsum and others return their operand, or a view of it, without an
/// annotation, and lists and blocks are joined more finely than a caller may
/// rely on after a change. Here an operator joins all its tensor operands and
/// outputs unless it is known to make new storage. What comes from outside is
/// `isExternal`: the inputs are one group, the attributes and constants another
/// (a caller does not hand a model its own buffers).
///
/// A snapshot: build anew after a change of the graph.
class StorageGroups {
public:
  /// With `joinsApart`, a list of a join (makesListOfJoin) does not bring its
  /// elements into one group, and is itself in no group of theirs: the caller
  /// looks through it.
  explicit StorageGroups(torch::jit::Graph& graph, bool joinsApart = false);

  /// Whether the value was there when the snapshot was taken. A value made
  /// since then is asked of nothing else here.
  bool knows(torch::jit::Value* value) const {
    return index_.count(value) != 0;
  }
  bool mayShare(torch::jit::Value* a, torch::jit::Value* b) const;
  /// Whether the value may share storage with something that lives outside of
  /// the graph: an input, an attribute, a constant.
  bool isExternal(torch::jit::Value* value) const;
  /// All values of the group, in program order.
  const std::vector<torch::jit::Value*>&
  members(torch::jit::Value* value) const;
  /// Whether some operator of the graph writes a value of the group.
  bool isWritten(torch::jit::Value* value) const;

private:
  void visit(torch::jit::Block* block);
  void joinNode(torch::jit::Node* node);
  void add(torch::jit::Value* value);
  size_t find(size_t index) const;
  size_t rootOf(torch::jit::Value* value) const;
  void join(torch::jit::Value* a, torch::jit::Value* b);

  const bool joinsApart_;
  std::unordered_map<const torch::jit::Value*, size_t> index_;
  std::vector<torch::jit::Value*> values_;
  mutable std::vector<size_t> parent_;
  std::vector<torch::jit::Value*> inputs_, attributes_;
  std::vector<torch::jit::Value*> written_;
  std::unordered_map<size_t, std::vector<torch::jit::Value*>> members_;
  std::unordered_map<size_t, bool> isExternal_, isWritten_;
};

} // namespace inv::opt
