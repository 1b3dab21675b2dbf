// Small questions about a torch::jit graph that several transforms ask. All are
// read-only unless the name says otherwise.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// The "until the end" of a slice.
inline constexpr int64_t kOpenEnd = std::numeric_limits<int64_t>::max();

/// The value of a constant int; empty where `value` is no constant int.
std::optional<int64_t> constantInt(const torch::jit::Value* value);
/// The values of a list of constant ints (a constant list, or a ListConstruct
/// of constants).
std::optional<std::vector<int64_t>> constantInts(torch::jit::Value* value);
std::optional<bool> constantBool(const torch::jit::Value* value);
/// A constant float or int, as a double.
std::optional<double> constantNumber(const torch::jit::Value* value);
bool isNone(const torch::jit::Value* value);

/// Whether the operator's schema says that it writes one of its operands.
bool writesOperand(const torch::jit::Node* node);
/// Batch or instance norm that updates running statistics, or may: a write that
/// no schema shows.
bool updatesStatistics(const torch::jit::Node* node);
/// Whether values of the type may refer to a tensor (tensors, lists and tuples
/// of them, Any, classes).
bool mayHoldTensor(const c10::TypePtr& type);
/// A tensor or None.
bool isOptionalTensor(const c10::TypePtr& type);

/// Whether every reader of the list only reads it: the elements are those that
/// it was made with. Readers without a schema other than ListUnpack (returns,
/// blocks, tuples) count as writers.
bool isOnlyRead(const torch::jit::Value* list);

/// A list or dictionary of numbers that somebody may write once it is made, so
/// that what a reader gets depends on when it reads. (Containers of tensors are
/// asked for by their storage.)
bool isNumberContainerInFlux(const torch::jit::Value* container);

/// The ancestor of `node` that lies directly in `block`; null if there is none.
torch::jit::Node* ancestorIn(torch::jit::Node* node,
                             const torch::jit::Block* block);

/// "blocks.0.w" of a chain of GetAttr nodes that starts at the graph's first
/// input; empty for anything else.
std::optional<std::string> attributePath(torch::jit::Value* value);

/// A name for what a GetAttr reads: "conv" of net.conv, "blocks_0" of
/// net.blocks.0, since a number alone names nothing. Anything else: empty.
std::string attributeName(const torch::jit::Value* value);

/// All nodes, outer before inner, in program order.
std::vector<torch::jit::Node*> allNodes(torch::jit::Block* block);

/// Creates a node with one tensor output behind the current insert point, with
/// `like`'s source range and call stack.
torch::jit::Node* createLike(torch::jit::Node* like, c10::Symbol kind,
                             at::ArrayRef<torch::jit::Value*> inputs,
                             size_t outputs = 1);

/// Replaces all uses of `from` by `to`, and gives `to` its name where it has
/// none.
void replaceValue(torch::jit::Value* from, torch::jit::Value* to);

/// Removes nodes whose results nobody reads, unless they write, draw random
/// numbers, or have another effect. LibTorch's own pass also drops random
/// operators and batch norms whose output is unused, which changes what a later
/// operator draws and what the statistics are.
bool removeDeadNodes(torch::jit::Graph& graph);

/// Moves reads of attributes inside ifs and loops to the top, so that a node
/// with blocks can be handed what it reads. Not where the graph writes
/// attributes. Returns whether any was moved.
bool hoistAttributeReads(torch::jit::Graph& graph);

} // namespace inv::opt
