#include "passes/transforms/DerivedValues.h"

#include "passes/support/GraphUtil.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <string>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// Costs about as much as reading its operands and writing its result.
bool isCheap(const Node* n) {
  static const std::unordered_set<std::string> names = {
      // Elementwise.
      "add", "sub", "rsub", "mul", "div", "neg", "abs", "pow", "square", "sqrt",
      "rsqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log1p", "sigmoid",
      "tanh", "atan", "sin", "cos", "sinh", "cosh", "asinh", "softplus", "relu",
      "erf", "sign", "clamp", "clamp_min", "clamp_max", "maximum", "minimum",
      "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "logical_not",
      "logical_and", "logical_or", "bitwise_not", "to", "type_as", "float",
      "double", "floor", "round", "floor_divide", "remainder", "lerp",
      "addcmul", "addcdiv", "leaky_relu", "elu",
      // Joins, copies and parts.
      "cat", "stack", "clone", "contiguous", "repeat", "index", "index_select",
      "flip", "roll", "tril", "triu", "diag", "diag_embed", "constant_pad_nd",
      "pad", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "gather",
      "outer", "ger", "bincount", "one_hot", "copy", "lift_fresh",
      // Reductions.
      "sum", "mean", "amax", "amin", "norm", "linalg_vector_norm", "prod",
      "cumsum", "all", "any", "max", "min", "dot", "mv",
      // New tensors.
      "zeros", "ones", "full", "eye", "arange", "linspace", "tensor",
      "zeros_like", "ones_like", "full_like", "scalar_tensor", "new_zeros",
      "new_ones", "new_full"};
  if (n->kind() == prim::NumToTensor)
    return true;
  return n->kind().is_aten() && names.count(n->kind().toUnqualString());
}

} // namespace

DerivedValues::DerivedValues(const Dataflow& flow,
                             const std::vector<std::vector<ValueId>>& reads)
    : flow_(flow), written_(flow) {
  countSteps(reads);
}

bool DerivedValues::canRunAgain(NodeId n) const {
  const NodeInfo& info = flow_.node(n);
  if (info.glue || !info.node->blocks().empty() ||
      info.effect != EffectKind::Pure ||
      info.node->kind() == prim::CallMethod ||
      info.node->kind() == prim::GetAttr || info.node->kind() == prim::Constant)
    return false;
  // A list that grows is not what it was made of.
  for (Value* in : info.node->inputs())
    if (in->type()->cast<c10::ListType>() && mayHoldTensor(in->type()) &&
        (in->node()->kind() != prim::ListConstruct || !isOnlyRead(in)))
      return false;
  return std::none_of(info.operands.begin(), info.operands.end(),
                      [&](ValueId v) {
                        // What may hold a tensor and is none (an optional
                        // attribute) is neither a capture nor an extra.
                        const auto& type = flow_.value(v).value->type();
                        return flow_.value(v).isActivation() ||
                               (mayHoldTensor(type) &&
                                !type->isSubtypeOf(*c10::TensorType::get()) &&
                                !type->cast<c10::ListType>());
                      });
}

/// Adds the nodes that make `v` from what is captured.
void DerivedValues::collect(ValueId v, bool sharedToo,
                            std::unordered_set<NodeId>& nodes) const {
  std::vector<ValueId> work{v};
  while (!work.empty()) {
    const ValueId at = work.back();
    work.pop_back();
    const NodeId def = flow_.value(at).def;
    if (flow_.value(at).origin != Origin::Derived || def < 0 ||
        !canRunAgain(def))
      continue;
    if (!sharedToo && isShared(def))
      continue;
    if (nodes.insert(def).second)
      work.insert(work.end(), flow_.node(def).operands.begin(),
                  flow_.node(def).operands.end());
  }
}

/// Computing it once, and holding that, is better.
bool DerivedValues::isShared(NodeId n) const {
  constexpr int kMostOfACheapOne = 4;
  const auto steps = steps_.find(n);
  return steps != steps_.end() &&
         steps->second > (isCheap(flow_.node(n).node) ? kMostOfACheapOne : 1);
}

void DerivedValues::countSteps(const std::vector<std::vector<ValueId>>& reads) {
  for (const std::vector<ValueId>& step : reads) {
    std::unordered_set<NodeId> nodes;
    for (ValueId v : step)
      collect(v, /*sharedToo=*/true, nodes);
    for (NodeId n : nodes)
      if (!flow_.node(n).view)
        ++steps_[n];
  }
}

std::vector<NodeId> DerivedValues::nodesFor(ValueId v) const {
  std::unordered_set<NodeId> nodes;
  collect(v, /*sharedToo=*/false, nodes);
  bool makes = false; // storage of its own
  for (NodeId n : nodes) {
    makes |= !flow_.node(n).view;
    for (ValueId operand : flow_.node(n).operands)
      if (written_.isOne(operand))
        return {};
  }
  if (!makes)
    return {};
  std::vector<NodeId> sorted(nodes.begin(), nodes.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

} // namespace inv::opt
