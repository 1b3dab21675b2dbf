#include "Zeros.h"

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
  return at::ones({kByte}, at::TensorOptions().dtype(at::kByte).device(device))
      .bitwise_left_shift(at::arange(
          kByte, at::TensorOptions().dtype(at::kByte).device(device)));
}

} // namespace

Zeros::Zeros(const at::Tensor& t) {
  at::NoGradGuard noGrad;
  const int64_t n = t.numel();
  const int64_t count = n - t.count_nonzero().item<int64_t>();
  if (count == 0)
    return;
  const at::Tensor mask = at::eq(t, 0).reshape({-1});
  constexpr int64_t kPlaceBits = 32;
  if (count * kPlaceBits < n && n <= std::numeric_limits<int32_t>::max()) {
    places_ = mask.nonzero().reshape({-1}).to(at::kInt);
    return;
  }
  const int64_t padding = (kByte - n % kByte) % kByte;
  bits_ = at::constant_pad_nd(mask, {0, padding})
              .reshape({-1, kByte})
              .to(at::kByte)
              .mul_(bitsOfByte(t.device()))
              .sum(1, /*keepdim=*/false, at::kByte);
}

at::Tensor Zeros::reimpose(at::Tensor t) const {
  if (!places_.defined() && !bits_.defined())
    return t;
  at::NoGradGuard noGrad;
  at::Tensor mask;
  if (places_.defined())
    mask = at::zeros({t.numel()}, t.options().dtype(at::kBool))
               .index_fill_(0, places_.to(at::kLong), true);
  else
    mask = bits_.unsqueeze(1)
               .bitwise_and(bitsOfByte(t.device()))
               .ne(0)
               .reshape({-1})
               .narrow(0, 0, t.numel());
  mask = mask.reshape(t.sizes());
  return ownsItsMemory(t) ? t.masked_fill_(mask, 0) : t.masked_fill(mask, 0);
}

} // namespace inv
