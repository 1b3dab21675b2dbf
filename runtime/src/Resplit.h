// inv::resplit and inv::as_piece: layout without copies (or with one).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace inv {

/// See abi::kResplit.
std::vector<at::Tensor> resplit(const std::vector<at::Tensor>& parts,
                                int64_t partsDim, const std::string& how,
                                const std::vector<int64_t>& args, int64_t dim);

/// Sizes along the split dimension that ATen's operator `how` would give to a
/// tensor of `total`; empty where ATen would refuse.
std::vector<int64_t> pieceSizes(int64_t total, const std::string& how,
                                const std::vector<int64_t>& args);

/// See abi::kAsPiece.
at::Tensor asPiece(const at::Tensor& part, int64_t dim, int64_t offset,
                   int64_t total);

} // namespace inv
