// The fused kernels: bit for bit what ATen's separate operators give.
#include "Steps.h"

#include <gtest/gtest.h>

namespace inv::test {
namespace {

at::Tensor op(const char* name, const at::Tensor& a, const at::Tensor& b,
              double xScale, double fScale) {
  return callOp(name, {a, b, xScale, fScale}).toTensor();
}

struct KernelCase {
  at::ScalarType dtype;
  double xScale, fScale;
};

class Kernels : public testing::TestWithParam<KernelCase> {
protected:
  /// Operands of odd sizes, in several layouts.
  Tensors operands() {
    at::manual_seed(5);
    const auto options = at::TensorOptions().dtype(GetParam().dtype);
    const at::Tensor dense = at::randn({37, 131}, options);
    return {dense, at::randn({131, 37}, options).t(),
            at::randn({37, 262}, options).chunk(2, 1)[1],
            at::randn({1, 131}, options).expand({37, 131}),
            at::randn({37, 131}, options)};
  }
};

TEST_P(Kernels, ScaledAddIsMulMulAdd) {
  const auto [dtype, xs, fs] = GetParam();
  for (const at::Tensor& x : operands())
    for (const at::Tensor& f : operands())
      EXPECT_TRUE(
          at::equal(op("inv::scaled_add", x, f, xs, fs), x * xs + f * fs));
}

TEST_P(Kernels, IntoGivesTheSame) {
  const auto [dtype, xs, fs] = GetParam();
  for (const at::Tensor& x : operands()) {
    at::Tensor f = operands().back();
    const at::Tensor expected = op("inv::scaled_add", x, f, xs, fs);
    const at::Tensor out = op("inv::scaled_add_into_", f, x, xs, fs);
    EXPECT_TRUE(out.is_same(f));
    EXPECT_TRUE(at::equal(f, expected));
  }
}

TEST_P(Kernels, InverseUndoes) {
  const auto [dtype, xs, fs] = GetParam();
  if (at::isReducedFloatingType(dtype))
    return;
  for (const at::Tensor& x : operands())
    for (const at::Tensor& f : operands()) {
      const at::Tensor y = op("inv::scaled_add", x, f, xs, fs);
      const at::Tensor back = op("inv::scaled_add_inverse", y, f, xs, fs);
      EXPECT_LE(distance(back, x), dtype == at::kDouble ? 1e-14 : 1e-5);
      EXPECT_TRUE(at::equal(back, (y - f * fs) / at::full_like(y, xs)));
      at::Tensor mine = y.clone();
      op("inv::scaled_add_inverse_", mine, f, xs, fs);
      EXPECT_TRUE(at::equal(mine, back));
    }
}

INSTANTIATE_TEST_SUITE_P(All, Kernels,
                         testing::Values(KernelCase{at::kFloat, 1, 1},
                                         KernelCase{at::kFloat, 1, -1},
                                         KernelCase{at::kFloat, 0.9, 1},
                                         KernelCase{at::kFloat, -0.3, 0.7},
                                         KernelCase{at::kDouble, 1, 1},
                                         KernelCase{at::kDouble, 0.9, -1},
                                         KernelCase{at::kBFloat16, 1, 1},
                                         KernelCase{at::kBFloat16, 0.9, 0.7},
                                         KernelCase{at::kHalf, 0.9, -1}));

TEST(KernelEdges, EmptyAndScalar) {
  EXPECT_EQ(
      op("inv::scaled_add", at::ones({0, 3}), at::ones({0, 3}), 1, 1).numel(),
      0);
  EXPECT_EQ(
      op("inv::scaled_add", at::ones({}), at::ones({}), 2, 3).item<float>(), 5);
}

TEST(KernelEdges, NaNAndInfinityPass) {
  const at::Tensor x = at::tensor({NAN, INFINITY, 1.f});
  const at::Tensor y = op("inv::scaled_add", x, at::ones({3}), 1, 1);
  EXPECT_TRUE(at::equal(y.isnan(), x.isnan()));
  EXPECT_TRUE(at::equal(y.isinf(), x.isinf()));
}

} // namespace
} // namespace inv::test
