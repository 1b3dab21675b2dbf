#include "Ties.h"

#include "ScaledSum.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace inv {
namespace {

constexpr int64_t kByte = 8;

/// 1, 2, 4 ... 128
at::Tensor bitsOfByte(c10::Device device) {
  const auto options = at::TensorOptions().dtype(at::kByte).device(device);
  return at::ones({kByte}, options)
      .bitwise_left_shift(at::arange(kByte, options));
}

at::Tensor packed(const at::Tensor& mask) {
  const int64_t padding = (kByte - mask.numel() % kByte) % kByte;
  return at::constant_pad_nd(mask, {0, padding})
      .reshape({-1, kByte})
      .to(at::kByte)
      .mul_(bitsOfByte(mask.device()))
      .sum(1, /*keepdim=*/false, at::kByte);
}

at::Tensor unpacked(const at::Tensor& bits, int64_t count) {
  return bits.unsqueeze(1)
      .bitwise_and(bitsOfByte(bits.device()))
      .ne(0)
      .reshape({-1})
      .narrow(0, 0, count);
}

} // namespace

Ties::Ties(const at::Tensor& t, const std::vector<double>& values,
           bool mayWait) {
  at::NoGradGuard noGrad;
  const int64_t n = t.numel();
  if (n == 0)
    return;
  constexpr int64_t kPlaceBits = 32;
  for (double value : values) {
    const at::Tensor mask = at::eq(t, value).reshape({-1});
    if (!mayWait) {
      all_.push_back({value, at::Tensor(), packed(mask)});
      continue;
    }
    const int64_t count = mask.count_nonzero().item<int64_t>();
    if (count == 0)
      continue;
    if (count * kPlaceBits < n && n <= std::numeric_limits<int32_t>::max())
      all_.push_back(
          {value, mask.nonzero().reshape({-1}).to(at::kInt), at::Tensor()});
    else
      all_.push_back({value, at::Tensor(), packed(mask)});
  }
}

at::Tensor Ties::reimpose(at::Tensor t) const {
  at::NoGradGuard noGrad;
  for (const auto& [value, places, bits] : all_) {
    at::Tensor mask;
    if (places.defined())
      mask = at::zeros({t.numel()}, t.options().dtype(at::kBool))
                 .index_fill_(0, places.to(at::kLong), true);
    else
      mask = unpacked(bits, t.numel());
    mask = mask.reshape(t.sizes());
    if (ownsItsMemory(t))
      t.masked_fill_(mask, value);
    else
      t = t.masked_fill(mask, value);
  }
  return t;
}

} // namespace inv
