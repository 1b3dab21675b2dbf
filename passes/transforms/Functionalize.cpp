// In-place operators as values.
//
//   %y = aten::relu_(%x)                     ==>  %y = aten::relu(%x)
//   ... readers of %x or %y                       ... readers of %y
//
//   %y = aten::add_(%x, %z, %1)              ==>  %s = aten::add(%x, %z, %1)
//                                                 %y = aten::type_as(%s, %x)
//
// After it, a value is what its defining node computed, wherever it is read, so
// that it can be computed again and undone. LibTorch's RemoveMutation leaves
// half of such operators in real models (residual additions among them).
//
// An in-place operator on %x is replaced only if all of this is proved:
//   storage     %x was made by an operator that gives new, dense storage (so
//               the new value has the same strides), in the same block; a
//               dropout may lie in between. A write to an input, a buffer or a
//               parameter is an effect and stays.
//   readers     no other value that may share the storage (a view, a list that
//               holds it, ...) was made before the write and is read after it.
//               A list for `cat` is read where the cat stands.
//   autograd    the value that is overwritten was saved for backward by nobody:
//               not by the operator that made it (exp, sigmoid, ...) nor by an
//               operator that read it before (a convolution, mul, ...). The
//               original throws in backward there, and has to go on doing so.
//   arithmetic  the out-of-place operator gives the same bits and gradients.
//               Not so: dropout_ (draws other numbers on CUDA), elu_, selu_,
//               celu_ (differentiated from the result, with other rounding),
//               operators that autocast runs in another dtype out of place
//               (exp_, pow_, ...).
// An in-place operator with a second tensor computes in the promoted type and
// stores in %x's; type_as does that, and returns its operand where the types
// are equal, as they usually are (only the run knows).
//
// Left alone: writes through views and into pieces of a split, copy_, fill_ and
// index_put_ (into a fresh tensor these are GatherWrites' business), and
// everything not proved above.
#include "passes/transforms/Functionalize.h"

#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Written.h"

#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool isTensor(const Value* value) {
  return value->type()->isSubtypeOf(*c10::TensorType::get());
}

/// How an in-place operator is replaced.
struct Replacement {
  c10::Symbol kind;
  bool castBack = false; ///< a second tensor may change the dtype
};

std::optional<Replacement> replacementFor(const Node* node) {
  static const std::unordered_map<std::string, const char*> unary = {
      {"relu_", "relu"},
      {"relu6_", "relu6"},
      {"sigmoid_", "sigmoid"},
      {"tanh_", "tanh"},
      {"hardtanh_", "hardtanh"},
      {"hardswish_", "hardswish"},
      {"leaky_relu_", "leaky_relu"},
      {"hardsigmoid_", "hardsigmoid"},
      {"silu_", "silu"},
      {"clamp_", "clamp"},
      {"clamp_min_", "clamp_min"},
      {"clamp_max_", "clamp_max"},
      {"neg_", "neg"},
      {"abs_", "abs"},
      {"sqrt_", "sqrt"}};
  static const std::unordered_map<std::string, const char*> binary = {
      {"add_", "add"}, {"sub_", "sub"}, {"mul_", "mul"}, {"div_", "div"}};
  if (!node->kind().is_aten() || node->outputs().size() != 1 ||
      node->inputs().empty() || !isTensor(node->input(0)))
    return std::nullopt;
  const std::string name = node->kind().toUnqualString();
  const auto symbol = [](const char* to) {
    return c10::Symbol::fromQualString(std::string("aten::") + to);
  };
  if (auto found = unary.find(name); found != unary.end()) {
    // Tensor bounds may promote, as the second operand of add_ does.
    for (size_t i = 1; i < node->inputs().size(); ++i)
      if (isTensor(node->input(i)))
        return std::nullopt;
    // With a negative slope the result does not tell the operand's sign.
    if (name == "leaky_relu_" &&
        (node->inputs().size() != 2 ||
         constantNumber(node->input(1)).value_or(0) <= 0))
      return std::nullopt;
    return Replacement{symbol(found->second)};
  }
  if (auto found = binary.find(name); found != binary.end()) {
    // div_ with a rounding mode is another function.
    if (node->inputs().size() < 2 ||
        (name == "div_" && node->inputs().size() != 2))
      return std::nullopt;
    return Replacement{symbol(found->second), isTensor(node->input(1))};
  }
  return std::nullopt;
}

/// Operators that keep none of their operands for backward. (Sizes, dtypes and
/// masks may be kept.)
bool savesNoOperand(const Node* node) {
  static const std::set<std::string> names = {"add",
                                              "sub",
                                              "rsub",
                                              "neg",
                                              "cat",
                                              "stack",
                                              "size",
                                              "dim",
                                              "sum",
                                              "mean",
                                              "chunk",
                                              "split",
                                              "split_with_sizes",
                                              "tensor_split",
                                              "slice",
                                              "select",
                                              "view",
                                              "reshape",
                                              "flatten",
                                              "permute",
                                              "transpose",
                                              "t",
                                              "unsqueeze",
                                              "squeeze",
                                              "expand",
                                              "expand_as",
                                              "type_as",
                                              "to",
                                              "contiguous",
                                              "clone",
                                              "detach",
                                              "dropout",
                                              "zeros_like",
                                              "ones_like",
                                              "empty_like",
                                              "full_like",
                                              "numel",
                                              "len"};
  if (node->kind() == prim::ListConstruct || node->kind() == prim::ListUnpack ||
      node->kind() == prim::dtype || node->kind() == prim::device)
    return true;
  return node->kind().is_aten() && names.count(node->kind().toUnqualString());
}

/// Operators that keep none of their outputs for backward.
bool savesNoOutput(const Node* node) {
  if (node->kind() == writtenSymbol())
    return true;
  static const std::set<std::string> names = {"add",
                                              "sub",
                                              "rsub",
                                              "mul",
                                              "div",
                                              "neg",
                                              "abs",
                                              "cat",
                                              "stack",
                                              "clone",
                                              "linear",
                                              "addmm",
                                              "mm",
                                              "bmm",
                                              "baddbmm",
                                              "matmul",
                                              "_convolution",
                                              "conv1d",
                                              "conv2d",
                                              "conv3d",
                                              "conv_transpose1d",
                                              "conv_transpose2d",
                                              "conv_transpose3d",
                                              "convolution",
                                              "batch_norm",
                                              "layer_norm",
                                              "group_norm",
                                              "instance_norm",
                                              "avg_pool2d",
                                              "adaptive_avg_pool2d",
                                              "max_pool1d",
                                              "max_pool2d",
                                              "embedding",
                                              "gelu",
                                              "silu",
                                              "hardswish",
                                              "where",
                                              "masked_fill",
                                              "clamp",
                                              "clamp_min",
                                              "clamp_max",
                                              "zeros",
                                              "ones",
                                              "full",
                                              "empty",
                                              "rand",
                                              "randn",
                                              "zeros_like",
                                              "ones_like",
                                              "full_like",
                                              "empty_like",
                                              "rand_like",
                                              "randn_like"};
  return node->kind().is_aten() && names.count(node->kind().toUnqualString());
}

/// The node that made the storage: through the type_as of an earlier rewrite,
/// and through dropout, which gives its operand or a product that nobody saves.
const Node* makerOf(const Value* value) {
  const Node* node = value->node();
  while (node->kind() == aten::type_as || node->kind() == aten::dropout)
    node = node->input(0)->node();
  return node;
}

/// The join that reads a list is the reader of its elements.
bool listIsReadBefore(const Node* list, const Node* write, Block* block) {
  for (const Use& use : list->output()->uses()) {
    const Node* at = ancestorIn(use.user, block);
    if (!at || at == block->return_node() || !at->isBefore(write))
      return false;
  }
  return true;
}

/// Every use of `value` that comes before `write` keeps nothing, and there is
/// none behind it unless `mayReadLater`.
bool usesAllow(const Value* value, Node* write, bool mayReadLater) {
  Block* block = write->owningBlock();
  for (const Use& use : value->uses()) {
    if (use.user == write)
      continue;
    Node* at = ancestorIn(use.user, block);
    if (!at)
      return false;
    const bool before = at != block->return_node() && at->isBefore(write);
    if (before && (at != use.user || !savesNoOperand(use.user)))
      return false;
    if (before && makesListOfJoin(use.user) &&
        !listIsReadBefore(use.user, write, block))
      return false;
    if (!before && !mayReadLater)
      return false;
  }
  return true;
}

/// See the essay: storage, readers, autograd.
bool isLegal(Node* write, const StorageGroups& groups) {
  Value* target = write->input(0);
  Block* block = write->owningBlock();
  const Node* maker = makerOf(target);
  if (target->node()->owningBlock() != block || !makesNewStorage(maker) ||
      !savesNoOutput(maker) || maker->owningBlock() != block)
    return false;
  // The storage is as old as its maker: what was there before (inputs of the
  // block, and of the method, among them) is something else, whatever became of
  // the storage later, or of that of an earlier iteration. What is made behind
  // the write sees its result.
  const auto isBetween = [&](Value* value) {
    const Node* made = ancestorIn(value->node(), block);
    return made && made->kind() != prim::Param && !made->isBefore(maker) &&
           made->isBefore(write);
  };
  // x.add_(x): the operand is read as it is written.
  for (size_t i = 1; i < write->inputs().size(); ++i)
    if (mayHoldTensor(write->input(i)->type()) &&
        groups.knows(write->input(i)) && isBetween(write->input(i)) &&
        groups.mayShare(target, write->input(i)))
      return false;
  for (Value* member : groups.members(target))
    if (member != target && member != write->output() && isBetween(member) &&
        !usesAllow(member, write, /*mayReadLater=*/false))
      return false;
  return usesAllow(target, write, /*mayReadLater=*/true);
}

void replace(Node* write, const Replacement& with) {
  Value* target = write->input(0);
  Node* made = createLike(write, with.kind, write->inputs());
  made->output()->setType(write->output()->type());
  made->insertBefore(write);
  Node* last = made;
  if (with.castBack) {
    last = createLike(write, aten::type_as, {made->output(), target});
    last->output()->setType(write->output()->type());
    last->insertBefore(write);
  }
  replaceValue(write->output(), last->output());
  write->destroy();
  // What read the target behind the write reads the new value.
  target->replaceAllUsesAfterNodeWith(last, last->output());
}

} // namespace

/// One round: at most one write per group of storage, since the snapshot of the
/// groups is no longer true for a group in which a write was replaced. Returns
/// whether something was.
static bool replaceSome(Graph& graph, std::vector<Node*>& writes) {
  const StorageGroups groups(graph, /*joinsApart=*/true);
  std::set<const std::vector<Value*>*> changed;
  std::vector<Node*> left;
  for (Node* write : writes) {
    // The result of a write is in the group of what it writes.
    const auto* group = &groups.members(write->output());
    if (changed.count(group)) {
      left.push_back(write);
    } else if (isLegal(write, groups)) {
      replace(write, *replacementFor(write));
      changed.insert(group);
    }
  }
  writes = std::move(left);
  return !changed.empty();
}

std::optional<c10::Symbol> outOfPlace(const Node* node) {
  const auto replacement = replacementFor(node);
  return replacement ? std::optional(replacement->kind) : std::nullopt;
}

bool functionalize(Graph& graph) {
  std::vector<Node*> writes;
  for (Node* node : allNodes(graph.block()))
    if (writesOperand(node) && replacementFor(node))
      writes.push_back(node);
  bool changed = false;
  while (!writes.empty() && replaceSome(graph, writes))
    changed = true;
  if (changed)
    removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
