// Which operators give other bits for other strides of the same values.
//
// ATen's kernels take a vectorised path for contiguous operands and a scalar
// one for the rest (the ends of rows included), and some functions are rounded
// differently on the two. Measured with LibTorch 2.11 on pieces of chunks
// against contiguous copies, float32 and float64, forward:
//
//   differ     gelu (both), sigmoid, silu, elu, selu, celu, mish, softplus,
//              batch_norm (train and eval), matmul, linear (on three dimensions
//              and more), norm, full sums, sums over the outer dimensions, pow
//              with a fractional exponent, std; in bfloat16 and float16 also
//              rsqrt, and add and sub with alpha
//   are equal  the table below: no difference in 84 geometries, and for the
//              elementwise ones in 4 million values each
//
// Elementwise entries are the ones where the vectorised and the scalar code do
// the same correctly rounded operation or call the same function; convolutions,
// layer_norm, group_norm and pooling first make their operand contiguous;
// softmax reads row by row either way. An entry holds for every dtype (float64
// linear differs, and dtypes are not known when compiling: it is not here).
//
// The table is what test/passes/transforms/LayoutSensitivity.cpp tests, entry
// by entry. An operator that is not in it is taken to be sensitive: the price
// is one transient copy.
#include "passes/transforms/LayoutSensitivity.h"

#include "passes/support/GraphUtil.h"
#include "passes/support/Holds.h"
#include "passes/support/Written.h"
#include "passes/transforms/LowerLists.h"
#include "passes/transforms/Schedule.h"

#include <algorithm>
#include <set>
#include <string>

namespace inv::opt {

using namespace torch::jit;

/// Reads no element, or copies elements only.
static bool readsNoValue(const std::string& name) {
  static const std::set<std::string> names = {"size",
                                              "dim",
                                              "numel",
                                              "len",
                                              "is_floating_point",
                                              "zeros_like",
                                              "ones_like",
                                              "cat",
                                              "stack",
                                              "clone",
                                              "contiguous",
                                              "constant_pad_nd"};
  return names.count(name) != 0;
}

static bool isInsensitiveKernel(const std::string& name) {
  static const std::set<std::string> names = {
      // Elementwise.
      "mul", "div", "neg", "abs", "relu", "relu6", "leaky_relu", "hardtanh",
      "hardswish", "hardsigmoid", "clamp", "clamp_min", "clamp_max", "sqrt",
      "reciprocal", "square", "sign", "floor", "maximum", "minimum", "where",
      "masked_fill", "exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "eq",
      "ne", "lt", "le", "gt", "ge",
      // Operands made contiguous, or read row by row.
      "_convolution", "conv1d", "conv2d", "conv3d", "layer_norm", "group_norm",
      "softmax", "log_softmax", "max_pool2d", "avg_pool2d",
      "adaptive_avg_pool2d"};
  return names.count(name) != 0;
}

/// x + alpha * y: a fused multiply-add on one path only, unless alpha is 1.
static bool isPlainSum(const Node* node) {
  if (node->kind() != aten::add && node->kind() != aten::sub)
    return false;
  return node->inputs().size() < 3 ||
         constantNumber(node->input(2)).value_or(0) == 1;
}

static bool isSmallPower(const Node* node) {
  if (node->kind() != aten::pow || node->inputs().size() != 2)
    return false;
  const double exponent = constantNumber(node->input(1)).value_or(0);
  return exponent == 2 || exponent == 3;
}

LayoutUse layoutUse(const Use& use) {
  const Node* node = use.user;
  if (node->kind() == prim::ListUnpack || node->kind() == prim::ListConstruct ||
      node->kind() == prim::TupleConstruct)
    return LayoutUse::View;
  if (node->kind() == prim::Return)
    return node->owningBlock()->owningNode() ? LayoutUse::Sensitive
                                             : LayoutUse::Insensitive;
  if (node->kind() == prim::dtype || node->kind() == prim::device)
    return LayoutUse::Insensitive;
  if (node->kind() == c10::Symbol::fromQualString("inv::resplit") ||
      node->kind() == writtenSymbol())
    return LayoutUse::Insensitive;
  if (node->kind() == holdsSymbol())
    return use.offset == 0 ? LayoutUse::View : LayoutUse::Insensitive;
  if (!node->kind().is_aten())
    return LayoutUse::Sensitive;
  const std::string name = node->kind().toUnqualString();
  const bool secondOfLike = (name == "type_as" || name == "expand_as" ||
                             name == "view_as" || name == "reshape_as") &&
                            use.offset == 1;
  if (secondOfLike || readsNoValue(name) || isInsensitiveKernel(name) ||
      isPlainSum(node) || isSmallPower(node))
    return LayoutUse::Insensitive;
  // dropout returns its operand in evaluation; in training it multiplies.
  if (isViewOperator(node) || isSplit(node) || name == "type_as" ||
      name == "to" || name == "dropout")
    return LayoutUse::View;
  return LayoutUse::Sensitive;
}

bool isSensitiveUse(const Use& use) {
  switch (layoutUse(use)) {
  case LayoutUse::Insensitive:
    return false;
  case LayoutUse::Sensitive:
    return true;
  case LayoutUse::View:
    break;
  }
  const auto outputs = use.user->outputs();
  return std::any_of(outputs.begin(), outputs.end(), hasSensitiveReader);
}

bool hasSensitiveReader(const Value* value) {
  return std::any_of(value->uses().begin(), value->uses().end(),
                     isSensitiveUse);
}

} // namespace inv::opt
