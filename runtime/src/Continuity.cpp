#include "Continuity.h"

#include "inv/Runtime.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cmath>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace inv {
namespace {

namespace jit = torch::jit;

// One word for each operator, whatever its overloads. What is in none of these
// lists chooses.

constexpr std::string_view kIgnores = R"(
  size sym_size dim ndimension numel sym_numel len stride storage_offset
  is_floating_point is_complex is_contiguous is_same_size element_size
  zeros_like ones_like empty_like full_like new_zeros new_ones new_full
  new_empty new_empty_strided rand_like randn_like randint_like get_device
)";

constexpr std::string_view kMoves = R"(
  view view_as reshape reshape_as flatten unflatten ravel permute transpose t
  adjoint numpy_T mT mH movedim moveaxis swapaxes swapdims squeeze
  unsqueeze expand expand_as broadcast_to broadcast_tensors repeat
  repeat_interleave tile chunk
  unsafe_chunk split unsafe_split split_with_sizes unsafe_split_with_sizes
  tensor_split hsplit vsplit dsplit unbind select slice narrow narrow_copy
  diagonal diag diag_embed tril triu index index_select gather take
  take_along_dim masked_select masked_fill masked_scatter where scatter
  index_put _unsafe_index index_copy index_fill select_scatter slice_scatter
  diagonal_scatter cat concat concatenate stack hstack vstack dstack
  column_stack contiguous clone detach alias copy to type_as float double half
  bfloat16 cpu cuda pixel_shuffle pixel_unshuffle channel_shuffle
  native_channel_shuffle roll flip fliplr flipud rot90 unfold im2col
  constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d
  replication_pad1d replication_pad2d replication_pad3d as_strided real imag
  view_as_real view_as_complex resolve_conj resolve_neg upsample_nearest1d
  upsample_nearest2d upsample_nearest3d embedding meshgrid atleast_1d
  atleast_2d atleast_3d block_diag lift_fresh __getitem__ append insert extend
  _set_item pop list fill zero item Float FloatImplicit ScalarImplicit
)";

constexpr std::string_view kSmooth = R"(
  linear bilinear matmul mm bmm mv dot vdot inner outer ger addmm addmv addbmm
  addr baddbmm tensordot einsum kron cross linalg_cross linalg_multi_dot
  chain_matmul linalg_matmul matrix_exp linalg_matrix_exp trace
  conv1d conv2d conv3d conv_tbc _convolution convolution conv_transpose1d
  conv_transpose2d conv_transpose3d col2im
  add sub subtract rsub mul multiply neg negative addcmul lerp square
  tanh sigmoid silu gelu mish softplus logsigmoid log_sigmoid tanhshrink
  softmax _softmax log_softmax _log_softmax softmin logsumexp logaddexp
  logaddexp2 glu exp exp2 expm1 sin cos sinh cosh asinh atan arctan arcsinh
  erf erfc sinc special_expit special_erf special_expm1 special_exp2
  layer_norm native_layer_norm group_norm native_group_norm rms_norm
  dropout alpha_dropout feature_dropout feature_alpha_dropout native_dropout
  mean sum cumsum var var_mean scatter_add index_add
  avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
  adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
  upsample_linear1d upsample_bilinear2d upsample_bicubic2d
  upsample_trilinear3d affine_grid_generator
  scaled_dot_product_attention _scaled_dot_product_attention_math
  _scaled_dot_product_flash_attention_for_cpu multi_head_attention_forward
  lstm gru rnn_tanh lstm_cell gru_cell rnn_tanh_cell
  fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2
  fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift
  fft_ifftshift complex polar conj _conj conj_physical
)";

/// With a kink, or no derivative at all, where an element (or a sum of
/// elements, as a variance is) is exactly 0.
constexpr std::string_view kKinkedAtZero = R"(
  relu leaky_relu prelu _prelu_kernel rrelu rrelu_with_noise elu selu celu
  softsign abs absolute sqrt rsqrt reciprocal div divide true_divide addcdiv
  pow float_power log log2 log10 norm linalg_vector_norm linalg_norm
  linalg_matrix_norm frobenius_norm batch_norm native_batch_norm
  _batch_norm_impl_index instance_norm std std_mean cosine_similarity
  local_response_norm atan2 arctan2 hypot prod cumprod tan special_xlogy xlogy
  lgamma digamma nan_to_num angle rnn_relu rnn_relu_cell pinverse linalg_pinv
  inverse linalg_inv linalg_inv_ex linalg_solve linalg_solve_ex
  linalg_solve_triangular triangular_solve cholesky linalg_cholesky
  linalg_cholesky_ex cholesky_solve cholesky_inverse det linalg_det logdet
  slogdet linalg_slogdet
)";

using Names = std::unordered_map<std::string_view, Continuity>;

void add(Names& names, std::string_view words, Continuity continuity) {
  constexpr std::string_view kSpace = " \n";
  for (size_t at = words.find_first_not_of(kSpace); at != words.npos;
       at = words.find_first_not_of(kSpace, at)) {
    const size_t end = std::min(words.find_first_of(kSpace, at), words.size());
    names.emplace(words.substr(at, end - at), continuity);
    at = end;
  }
}

/// Scalar arguments of an operator that bound what it clamps.
struct Bounds {
  size_t first, count;
};

const std::unordered_map<std::string_view, Bounds>& clamps() {
  static const auto* all = new std::unordered_map<std::string_view, Bounds>{
      {"clamp", {1, 2}},      {"clip", {1, 2}},      {"clamp_min", {1, 1}},
      {"clamp_max", {1, 1}},  {"hardtanh", {1, 2}},  {"threshold", {1, 1}},
      {"hardshrink", {1, 1}}, {"softshrink", {1, 1}}};
  return *all;
}

const std::unordered_map<std::string_view, std::vector<double>>& constants() {
  static const auto* all =
      new std::unordered_map<std::string_view, std::vector<double>>{
          {"relu6", {0, 6}},
          {"hardsigmoid", {-3, 3}},
          {"hardswish", {-3, 3}},
          {"asin", {-1, 1}},
          {"arcsin", {-1, 1}},
          {"acos", {-1, 1}},
          {"arccos", {-1, 1}},
          {"atanh", {-1, 1}},
          {"arctanh", {-1, 1}},
          {"erfinv", {-1, 1}},
          {"special_erfinv", {-1, 1}},
          {"logit", {0, 1}},
          {"special_logit", {0, 1}},
          {"acosh", {1}},
          {"arccosh", {1}},
          {"log1p", {-1}},
          {"special_log1p", {-1}},
          {"special_xlog1py", {-1}}};
  return *all;
}

const Names& names() {
  static const auto* all = [] {
    auto* n = new Names;
    add(*n, kIgnores, Continuity::Ignores);
    add(*n, kMoves, Continuity::Moves);
    add(*n, kSmooth, Continuity::Smooth);
    add(*n, kKinkedAtZero, Continuity::Kinked);
    for (const auto& [name, bounds] : clamps())
      n->emplace(name, Continuity::Kinked);
    for (const auto& [name, values] : constants())
      n->emplace(name, Continuity::Kinked);
    return n;
  }();
  return *all;
}

/// "relu" of aten::relu and of aten::relu_.
std::string baseName(const jit::Node& n) {
  std::string name = n.kind().toUnqualString();
  if (name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_')
    name.pop_back();
  return name;
}

std::mutex& trustMutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}
std::unordered_set<std::string>& trusted() {
  static auto* all = new std::unordered_set<std::string>;
  return *all;
}

bool isTrusted(const jit::Node& n) {
  const std::lock_guard lock(trustMutex());
  return trusted().count(n.kind().toQualString()) != 0;
}

/// A quotient that is rounded.
bool rounds(const std::string& name, const jit::Node& n) {
  return (name == "div" || name == "divide") && n.inputs().size() > 2 &&
         !n.input(2)->mustBeNone();
}

/// A norm of infinite order is a maximum, and so are a matrix's but one.
bool isMaximum(const std::string& name, const jit::Node& n) {
  if (name.find("norm") == name.npos)
    return false;
  if (name == "linalg_norm" || name == "linalg_matrix_norm") {
    const auto order = jit::toIValue(n.input(1));
    if (!order || !(order->isNone() ||
                    (order->isString() && order->toStringRef() == "fro")))
      return true;
  }
  for (size_t i = 0; i < n.inputs().size(); i++)
    if (const auto number = constantNumber(n, i); number && std::isinf(*number))
      return true;
  return false;
}

} // namespace

std::optional<double> constantNumber(const jit::Node& n, size_t input) {
  const auto value = jit::toIValue(n.inputs()[input]);
  if (!value)
    return std::nullopt;
  if (value->isInt())
    return static_cast<double>(value->toInt());
  if (value->isDouble())
    return value->toDouble();
  if (value->isTensor() && value->toTensor().defined() &&
      value->toTensor().dim() == 0 && value->toTensor().is_cpu() &&
      !value->toTensor().is_complex())
    return value->toTensor().item().toDouble();
  return std::nullopt;
}

Continuity continuityOf(const jit::Node& n) {
  if (!n.kind().is_aten())
    return isTrusted(n) ? Continuity::Smooth : Continuity::Chooses;
  const std::string name = baseName(n);
  const auto found = names().find(name);
  if (found == names().end())
    return Continuity::Chooses;
  if (rounds(name, n) || isMaximum(name, n))
    return Continuity::Chooses;
  return found->second;
}

std::optional<std::vector<double>> kinksOf(const jit::Node& n) {
  const std::string name = baseName(n);
  if (const auto found = constants().find(name); found != constants().end())
    return found->second;
  const auto clamp = clamps().find(name);
  if (clamp == clamps().end())
    return std::vector<double>{0};
  std::vector<double> result;
  const auto [first, count] = clamp->second;
  for (size_t i = first; i < std::min(first + count, n.inputs().size()); i++) {
    if (n.inputs()[i]->mustBeNone())
      continue;
    const auto number = constantNumber(n, i);
    if (!number)
      return std::nullopt;
    result.push_back(*number);
    if (name == "hardshrink" || name == "softshrink")
      result.push_back(-*number);
  }
  return result;
}

void trustOperator(const std::string& name) {
  const std::lock_guard lock(trustMutex());
  trusted().insert(name);
}

} // namespace inv
