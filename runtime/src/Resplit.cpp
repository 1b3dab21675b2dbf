#include "Resplit.h"

#include "inv/Abi.h"

#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>

namespace inv {
namespace {

using Pieces = std::vector<at::Tensor>;

/// ATen's split: pieces of `size`, the last of what remains; at least one.
std::vector<int64_t> splitSizes(int64_t total, int64_t size) {
  if (size < 0 || (size == 0 && total != 0))
    return {};
  if (size == 0)
    return {0};
  const int64_t count = std::max<int64_t>((total + size - 1) / size, 1);
  std::vector<int64_t> result(static_cast<size_t>(count), size);
  result.back() = size - (size * count - total);
  return result;
}

/// ATen's chunk: equal pieces but the last, and fewer than asked for if the
/// size does not divide; of an empty dimension exactly as many as asked for.
std::vector<int64_t> chunkSizes(int64_t total, int64_t chunks) {
  if (chunks <= 0)
    return {};
  const int64_t size = (total + chunks - 1) / chunks;
  if (size == 0)
    return std::vector<int64_t>(static_cast<size_t>(chunks), 0);
  return splitSizes(total, size);
}

/// ATen's tensor_split at indices, which clamp as slices do.
std::vector<int64_t> indexSizes(int64_t total,
                                const std::vector<int64_t>& indices) {
  std::vector<int64_t> result;
  const auto clamp = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + total : i, 0, total);
  };
  int64_t start = 0;
  for (int64_t index : indices) {
    result.push_back(std::max<int64_t>(clamp(index) - clamp(start), 0));
    start = index;
  }
  result.push_back(total - clamp(start));
  return result;
}

Pieces splitByAten(const at::Tensor& t, const std::string& how,
                   const std::vector<int64_t>& args, int64_t dim) {
  if (how == "chunk" || how == "split" || how == abi::kTensorSplitSections)
    TORCH_CHECK(args.size() == 1, "inv::resplit: ", how,
                " takes one argument, got ", args.size());
  if (how == "chunk")
    return t.chunk(args[0], dim);
  if (how == "split")
    return t.split(args[0], dim);
  if (how == "split_with_sizes")
    return t.split_with_sizes(args, dim);
  if (how == abi::kTensorSplitSections)
    return t.tensor_split(args[0], dim);
  TORCH_CHECK(how == "tensor_split", "inv::resplit: unknown operator '", how,
              "'");
  return t.tensor_split(c10::IntArrayRef(args), dim);
}

/// ATen's tensor_split by a number: the first pieces have one element more.
std::vector<int64_t> sectionSizes(int64_t total, int64_t sections) {
  std::vector<int64_t> result;
  for (int64_t i = 0; i < sections; i++)
    result.push_back(total / sections + (i < total % sections ? 1 : 0));
  return result;
}

/// The memory format that cat would give: the one that all parts suggest.
at::MemoryFormat formatOfCat(const Pieces& parts) {
  const auto format = parts.front().suggest_memory_format();
  for (const at::Tensor& t : parts)
    if (t.suggest_memory_format() != format)
      return at::MemoryFormat::Contiguous;
  return format;
}

/// Whether the dimensions lie in memory in the format's order. Else what is
/// computed from the part would be laid out in another order than what is
/// computed from a piece of the concatenation, and ATen may round differently.
bool inOrder(const at::Tensor& t, at::MemoryFormat format) {
  std::vector<int64_t> order;
  for (int64_t d = 0; d < t.dim(); d++)
    if (d != 1 || format == at::MemoryFormat::Contiguous)
      order.push_back(d);
  if (format != at::MemoryFormat::Contiguous)
    order.push_back(1);
  int64_t outer = std::numeric_limits<int64_t>::max();
  for (int64_t d : order) {
    if (t.size(d) == 1)
      continue;
    if (t.stride(d) > outer)
      return false;
    outer = t.stride(d);
  }
  return true;
}

/// cat would give tensors like the parts: no promotion, nothing skipped (cat
/// ignores one-dimensional empty tensors), no other memory format.
bool alike(const Pieces& parts, int64_t dim) {
  const at::Tensor& first = parts.front();
  return std::all_of(parts.begin(), parts.end(), [&](const at::Tensor& t) {
    if (t.dim() != first.dim() || t.scalar_type() != first.scalar_type() ||
        t.device() != first.device())
      return false;
    for (int64_t d = 0; d < t.dim(); d++)
      if (d != dim && t.size(d) != first.size(d))
        return false;
    return true;
  });
}

} // namespace

std::vector<int64_t> pieceSizes(int64_t total, const std::string& how,
                                const std::vector<int64_t>& args) {
  if (how == "tensor_split")
    return indexSizes(total, args);
  if (how == "split_with_sizes") {
    int64_t sum = 0;
    for (int64_t size : args) {
      if (size < 0)
        return {};
      sum += size;
    }
    return sum == total ? args : std::vector<int64_t>();
  }
  if (args.size() != 1)
    return {};
  if (how == "chunk")
    return chunkSizes(total, args[0]);
  if (how == "split")
    return splitSizes(total, args[0]);
  if (how == abi::kTensorSplitSections)
    return sectionSizes(total, args[0]);
  return {};
}

Pieces resplit(const Pieces& parts, int64_t partsDim, const std::string& how,
               const std::vector<int64_t>& args, int64_t dim) {
  TORCH_CHECK(!parts.empty(), "inv::resplit: no parts");
  const int64_t rank = parts.front().dim();
  if (rank > 0 && partsDim >= -rank && partsDim < rank && dim >= -rank &&
      dim < rank) {
    const int64_t along = at::maybe_wrap_dim(partsDim, rank);
    if (along == at::maybe_wrap_dim(dim, rank) && alike(parts, along)) {
      int64_t total = 0;
      std::vector<int64_t> have;
      for (const at::Tensor& t : parts) {
        have.push_back(t.size(along));
        total += t.size(along);
      }
      const auto format = formatOfCat(parts);
      const auto fits = [&](const at::Tensor& t) { return inOrder(t, format); };
      if (pieceSizes(total, how, args) == have &&
          std::all_of(parts.begin(), parts.end(), fits))
        return parts;
    }
  }
  return splitByAten(at::cat(parts, partsDim), how, args, dim);
}

namespace {

at::Tensor copyAsPiece(const at::Tensor& part, int64_t dim, int64_t offset,
                       int64_t total) {
  std::vector<int64_t> sizes = part.sizes().vec();
  sizes[static_cast<size_t>(dim)] = total;
  at::Tensor full =
      at::empty(sizes, part.options(), part.suggest_memory_format());
  at::Tensor piece = full.narrow(dim, offset, part.size(dim));
  piece.copy_(part);
  return piece;
}

/// The gradient passes unchanged, and so do second derivatives.
struct AsPiece : torch::autograd::Function<AsPiece> {
  static at::Tensor forward(torch::autograd::AutogradContext*,
                            const at::Tensor& part, int64_t dim, int64_t offset,
                            int64_t total) {
    // A tensor of its own: as a view of `full` autograd would want to know how
    // it came to be.
    return copyAsPiece(part, dim, offset, total).detach();
  }
  static torch::autograd::variable_list
  backward(torch::autograd::AutogradContext*,
           const torch::autograd::variable_list& grads) {
    return {grads[0], at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

at::Tensor asPiece(const at::Tensor& part, int64_t dim, int64_t offset,
                   int64_t total) {
  TORCH_CHECK(part.dim() > 0, "inv::as_piece: a tensor without dimensions");
  dim = at::maybe_wrap_dim(dim, part.dim());
  TORCH_CHECK(offset >= 0 && offset + part.size(dim) <= total,
              "inv::as_piece: ", part.size(dim), " elements at offset ", offset,
              " of ", total);
  // Whoever maps over it has no strides of his own.
  if (!part.has_storage())
    return part.view_as(part);
  if (!at::GradMode::is_enabled() || !part.requires_grad()) {
    at::NoGradGuard noGrad;
    return copyAsPiece(part, dim, offset, total).detach();
  }
  return AsPiece::apply(part, dim, offset, total);
}

} // namespace inv
