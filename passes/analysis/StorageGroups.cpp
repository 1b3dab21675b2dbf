// See StorageGroups.h.
#include "passes/analysis/StorageGroups.h"

#include "passes/support/GraphUtil.h"
#include "passes/support/Written.h"

#include <algorithm>
#include <set>

namespace inv::opt {

using namespace torch::jit;

/// The sum of two lists is a list of what is in them.
static bool makesTensor(const Node* node) {
  return !node->outputs().empty() &&
         node->output(0)->type()->kind() != c10::TypeKind::ListType;
}

bool makesNewStorage(const Node* node) {
  // Checked against ATen: none of these returns an operand or a view of one,
  // whatever its other operands are, and its output is non-overlapping and
  // dense (operators that follow an operand's strides follow their order only).
  static const std::set<std::string> names = {"add",
                                              "sub",
                                              "rsub",
                                              "mul",
                                              "div",
                                              "pow",
                                              "neg",
                                              "abs",
                                              "exp",
                                              "log",
                                              "sqrt",
                                              "rsqrt",
                                              "sin",
                                              "cos",
                                              "erf",
                                              "reciprocal",
                                              "square",
                                              "sign",
                                              "clamp",
                                              "clamp_min",
                                              "clamp_max",
                                              "maximum",
                                              "minimum",
                                              "where",
                                              "lerp",
                                              "masked_fill",
                                              "cumsum",
                                              "relu",
                                              "relu6",
                                              "leaky_relu",
                                              "sigmoid",
                                              "tanh",
                                              "gelu",
                                              "silu",
                                              "elu",
                                              "selu",
                                              "celu",
                                              "mish",
                                              "softplus",
                                              "hardtanh",
                                              "hardswish",
                                              "hardsigmoid",
                                              "log_sigmoid",
                                              "softmax",
                                              "log_softmax",
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
                                              "max_pool1d",
                                              "max_pool2d",
                                              "avg_pool2d",
                                              "adaptive_avg_pool2d",
                                              "embedding",
                                              "index",
                                              "index_select",
                                              "gather",
                                              "index_put",
                                              "index_copy",
                                              "masked_scatter",
                                              "cat",
                                              "stack",
                                              "clone",
                                              "zeros",
                                              "ones",
                                              "full",
                                              "empty",
                                              "empty_strided",
                                              "new_empty",
                                              "new_zeros",
                                              "new_ones",
                                              "new_full",
                                              "rand",
                                              "randn",
                                              "zeros_like",
                                              "ones_like",
                                              "full_like",
                                              "empty_like",
                                              "rand_like",
                                              "randn_like",
                                              "arange",
                                              "eq",
                                              "ne",
                                              "lt",
                                              "le",
                                              "gt",
                                              "ge"};
  return node->kind() == writtenSymbol() ||
         (node->kind().is_aten() && makesTensor(node) &&
          names.count(node->kind().toUnqualString()));
}

/// Whether the output may share storage with the first operand only: type_as
/// and the like look at the other's type or shape, an in-place operator copies
/// the other's values.
static bool keepsFirstOperandOnly(const Node* node) {
  static const std::set<std::string> names = {
      "type_as",    "expand_as", "view_as", "reshape_as", "relu_",
      "sigmoid_",   "tanh_",     "add_",    "sub_",       "mul_",
      "div_",       "copy_",     "fill_",   "zero_",      "masked_fill_",
      "index_put_", "clamp_",    "pow_",    "exp_",       "addcmul_",
      "addcdiv_"};
  return node->kind().is_aten() && node->outputs().size() == 1 &&
         makesTensor(node) && names.count(node->kind().toUnqualString());
}

bool makesListOfJoin(const Node* node) {
  if (node->kind() != prim::ListConstruct)
    return false;
  const auto& uses = node->output()->uses();
  return std::all_of(uses.begin(), uses.end(), [](const Use& use) {
    return use.user->kind() == aten::cat || use.user->kind() == aten::stack;
  });
}

StorageGroups::StorageGroups(Graph& graph, bool joinsApart)
    : joinsApart_(joinsApart) {
  for (Value* input : graph.inputs()) {
    add(input);
    // The first one is self: attributes are read from it.
    (input == graph.inputs()[0] && !input->type()->cast<c10::TensorType>()
         ? attributes_
         : inputs_)
        .push_back(input);
  }
  visit(graph.block());
  for (size_t i = 1; i < inputs_.size(); ++i)
    join(inputs_[0], inputs_[i]);
  for (size_t i = 1; i < attributes_.size(); ++i)
    join(attributes_[0], attributes_[i]);
  for (Value* value : values_)
    members_[rootOf(value)].push_back(value);
  for (const auto& values : {inputs_, attributes_})
    for (Value* value : values)
      isExternal_[rootOf(value)] = true;
  for (Value* value : written_)
    isWritten_[rootOf(value)] = true;
}

void StorageGroups::visit(Block* block) {
  for (Node* node : block->nodes()) {
    for (Value* output : node->outputs())
      add(output);
    for (Block* inner : node->blocks()) {
      for (Value* input : inner->inputs())
        add(input);
      visit(inner);
    }
    joinNode(node);
  }
}

void StorageGroups::joinNode(Node* node) {
  if (node->kind() == prim::GetAttr || node->kind() == prim::Constant) {
    attributes_.push_back(node->output());
    return;
  }
  if (node->kind() == prim::SetAttr)
    attributes_.push_back(node->input(1));
  if (const auto* schema = node->maybeSchema();
      schema && schema->is_mutable()) {
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      const auto* alias = i < schema->arguments().size()
                              ? schema->arguments()[i].alias_info()
                              : nullptr;
      if (alias && alias->isWrite())
        written_.push_back(node->input(i));
    }
  }
  if (updatesStatistics(node))
    for (size_t i : {3, 4})
      written_.push_back(node->input(i));
  if (makesNewStorage(node) || (joinsApart_ && makesListOfJoin(node)))
    return;
  std::vector<Value*> related(node->inputs().begin(), node->inputs().end());
  related.insert(related.end(), node->outputs().begin(), node->outputs().end());
  for (Block* inner : node->blocks()) {
    related.insert(related.end(), inner->inputs().begin(),
                   inner->inputs().end());
    related.insert(related.end(), inner->outputs().begin(),
                   inner->outputs().end());
  }
  if (keepsFirstOperandOnly(node))
    related = {node->input(0), node->output()};
  Value* first = nullptr;
  for (Value* value : related) {
    if (!mayHoldTensor(value->type()))
      continue;
    if (first)
      join(first, value);
    first = first ? first : value;
  }
}

void StorageGroups::add(Value* value) {
  index_[value] = values_.size();
  values_.push_back(value);
  parent_.push_back(parent_.size());
}

size_t StorageGroups::find(size_t index) const {
  while (parent_[index] != index)
    index = parent_[index] = parent_[parent_[index]];
  return index;
}

size_t StorageGroups::rootOf(Value* value) const {
  return find(index_.at(value));
}

void StorageGroups::join(Value* a, Value* b) {
  const size_t rootA = rootOf(a), rootB = rootOf(b);
  parent_[std::max(rootA, rootB)] = std::min(rootA, rootB);
}

bool StorageGroups::mayShare(Value* a, Value* b) const {
  return rootOf(a) == rootOf(b);
}

bool StorageGroups::isExternal(Value* value) const {
  return isExternal_.count(rootOf(value)) != 0;
}

const std::vector<Value*>& StorageGroups::members(Value* value) const {
  return members_.at(rootOf(value));
}

bool StorageGroups::isWritten(Value* value) const {
  return isWritten_.count(rootOf(value)) != 0;
}

} // namespace inv::opt
