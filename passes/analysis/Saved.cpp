#include "passes/analysis/Saved.h"

#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <unordered_map>

namespace inv::opt {

using namespace torch::jit;

namespace {

// What to keep, one letter each: digits are input positions, 'o' is every
// output, '-' nothing.
const std::unordered_map<std::string, const char*>& table() {
  static const std::unordered_map<std::string, const char*> t = {
      // Sums, joins and views keep nothing.
      {"add", "-"},
      {"sub", "-"},
      {"rsub", "-"},
      {"neg", "-"},
      {"sum", "-"},
      {"mean", "-"},
      {"cat", "-"},
      {"stack", "-"},
      {"chunk", "-"},
      {"split", "-"},
      {"split_with_sizes", "-"},
      {"tensor_split", "-"},
      {"unsafe_chunk", "-"},
      {"unsafe_split", "-"},
      {"unbind", "-"},
      {"view", "-"},
      {"view_as", "-"},
      {"reshape", "-"},
      {"reshape_as", "-"},
      {"permute", "-"},
      {"transpose", "-"},
      {"t", "-"},
      {"numpy_T", "-"},
      {"movedim", "-"},
      {"flatten", "-"},
      {"unflatten", "-"},
      {"slice", "-"},
      {"select", "-"},
      {"narrow", "-"},
      {"squeeze", "-"},
      {"unsqueeze", "-"},
      {"expand", "-"},
      {"expand_as", "-"},
      {"repeat", "-"},
      {"contiguous", "-"},
      {"clone", "-"},
      {"detach", "-"},
      {"to", "-"},
      {"type_as", "-"},
      {"float", "-"},
      {"double", "-"},
      {"alias", "-"},
      {"constant_pad_nd", "-"},
      {"pad", "-"},
      {"pixel_shuffle", "-"},
      {"pixel_unshuffle", "-"},
      {"channel_shuffle", "-"},
      {"roll", "-"},
      {"flip", "-"},
      {"zeros_like", "-"},
      {"ones_like", "-"},
      {"empty_like", "-"},
      {"full_like", "-"},
      {"zeros", "-"},
      {"ones", "-"},
      {"full", "-"},
      {"arange", "-"},
      {"size", "-"},
      {"dim", "-"},
      {"len", "-"},
      {"numel", "-"},
      {"rand_like", "-"},
      {"randn_like", "-"},
      {"broadcast_tensors", "-"},
      {"cumsum", "-"},
      {"diagonal", "-"},
      {"eq", "-"},
      {"ne", "-"},
      {"lt", "-"},
      {"le", "-"},
      {"gt", "-"},
      {"ge", "-"},
      {"logical_not", "-"},
      {"logical_and", "-"},
      {"bitwise_not", "-"},
      {"isfinite", "-"},
      {"isnan", "-"},
      {"tril", "-"},
      {"triu", "-"},
      {"round", "-"},
      {"floor", "-"},
      {"argmax", "-"},
      {"upsample_nearest2d", "-"},
      {"index_put", "2"},
      // Layers keep their input (parameters count for nothing).
      {"linear", "01"},
      {"conv1d", "01"},
      {"conv2d", "01"},
      {"conv3d", "01"},
      {"conv_transpose1d", "01"},
      {"conv_transpose2d", "01"},
      {"_convolution", "01"},
      {"convolution", "01"},
      {"batch_norm", "01"},
      {"layer_norm", "01"},
      {"group_norm", "0"},
      {"instance_norm", "0"},
      {"rms_norm", "01"},
      {"max_pool1d", "0"},
      {"max_pool2d", "0"},
      {"avg_pool2d", "0"},
      {"adaptive_avg_pool2d", "0"},
      {"upsample_bilinear2d", "-"},
      {"embedding", "1"},
      // Products keep their operands.
      {"mul", "01"},
      {"div", "01"},
      {"matmul", "01"},
      {"mm", "01"},
      {"bmm", "01"},
      {"mv", "01"},
      {"dot", "01"},
      {"addmm", "12"},
      {"addbmm", "12"},
      {"baddbmm", "12"},
      {"addcmul", "12"},
      {"addcdiv", "12"},
      {"pow", "01o"},
      {"lerp", "012"},
      // Activations keep their input or their output.
      {"relu", "o"},
      {"relu6", "0"},
      {"threshold", "0"},
      {"leaky_relu", "0"},
      {"prelu", "01"},
      {"elu", "0"},
      {"selu", "0"},
      {"celu", "0"},
      {"gelu", "0"},
      {"silu", "0"},
      {"mish", "0"},
      {"sigmoid", "o"},
      {"tanh", "o"},
      {"exp", "o"},
      {"expm1", "o"},
      {"log", "0"},
      {"log1p", "0"},
      {"sqrt", "o"},
      {"rsqrt", "o"},
      {"reciprocal", "o"},
      {"square", "0"},
      {"abs", "0"},
      {"sin", "0"},
      {"cos", "0"},
      {"atan", "0"},
      {"asinh", "0"},
      {"sinh", "0"},
      {"cosh", "0"},
      {"softplus", "0"},
      {"log_sigmoid", "0"},
      {"softsign", "0o"},
      {"hardtanh", "0"},
      {"hardswish", "0"},
      {"hardsigmoid", "0"},
      {"clamp", "0"},
      {"clamp_min", "0"},
      {"clamp_max", "0"},
      {"softmax", "o"},
      {"log_softmax", "o"},
      {"logsumexp", "0o"},
      {"erf", "0"},
      {"sign", "-"},
      {"scaled_dot_product_attention", "012o"},
      // Choices keep the indices or the mask.
      {"dropout", "o"},
      {"feature_dropout", "o"},
      {"alpha_dropout", "o"},
      {"where", "0"},
      {"masked_fill", "1"},
      {"index_select", "2"},
      {"gather", "2"},
      {"index", "1"},
      {"max", "o"},
      {"min", "o"},
      {"bernoulli", "-"},
      {"norm", "0o"},
      {"var", "0"},
      {"std", "0o"},
      {"einsum", "1"},
      {"topk", "o"},
      {"sort", "o"},
      {"matrix_exp", "0"},
      {"inverse", "o"},
      {"linalg_inv", "o"},
  };
  return t;
}

bool isConstantZeroOrFalse(Value* v) {
  if (auto constant = toIValue(v)) {
    if (constant->isBool())
      return !constant->toBool();
    if (constant->isDouble())
      return constant->toDouble() == 0.0;
  }
  return false;
}

} // namespace

Saved savedBy(Node* n) {
  Saved saved;
  const bool plain = n->kind().is_aten();
  if (n->kind().ns() == Symbol::fromQualString("inv::resplit").ns()) {
    // resplit and as_piece move values; a step keeps what its slots hold,
    // which the analysis sees as readers of its own.
    return saved;
  }
  if (n->kind().is_prim() && n->blocks().empty() &&
      n->kind() != prim::CallMethod)
    return saved;
  // An inactive dropout is the identity.
  if (n->kind() == aten::dropout && (isConstantZeroOrFalse(n->input(2)) ||
                                     isConstantZeroOrFalse(n->input(1))))
    return saved;
  // The exponent and the result are kept for the exponent's gradient.
  if (n->kind() == aten::pow && n->inputs().size() == 2 &&
      !n->input(1)->type()->isSubtypeOf(*c10::TensorType::get())) {
    saved.values = {n->input(0)};
    return saved;
  }
  auto row = plain ? table().find(n->kind().toUnqualString()) : table().end();
  if (row == table().end()) {
    saved.known = n->kind() == prim::CallMethod || !n->blocks().empty();
    saved.values.assign(n->inputs().begin(), n->inputs().end());
    saved.values.insert(saved.values.end(), n->outputs().begin(),
                        n->outputs().end());
    return saved;
  }
  for (const char* c = row->second; *c; ++c) {
    if (*c == 'o')
      saved.values.insert(saved.values.end(), n->outputs().begin(),
                          n->outputs().end());
    else if (*c != '-' && size_t(*c - '0') < n->inputs().size())
      saved.values.push_back(n->input(*c - '0'));
  }
  return saved;
}

} // namespace inv::opt
