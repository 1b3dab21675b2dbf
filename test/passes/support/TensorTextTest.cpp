#include "passes/support/TensorText.h"

#include "passes/support/Error.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace inv::opt {
namespace {

at::Tensor parse(const std::string& text) {
  Cursor cursor(text, "test");
  at::Tensor tensor = parseTensor(cursor, 7);
  cursor.expectEnd();
  return tensor;
}

TEST(TensorText, PrintedValuesComeBackToTheBit) {
  for (auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    at::Tensor tensor = at::randn({5, 3}).to(dtype);
    EXPECT_TRUE(at::equal(tensor, parse(tensorText(tensor)))) << dtype;
    EXPECT_EQ(parse(tensorText(tensor)).scalar_type(), dtype);
  }
}

TEST(TensorText, LargeIntegersKeepAllBits) {
  at::Tensor tensor = at::tensor({(int64_t{1} << 62) + 1, int64_t{-7}});
  EXPECT_TRUE(at::equal(tensor, parse(tensorText(tensor))));
}

TEST(TensorText, MoreThanTheLimitIsElidedButNotTheLimitItself) {
  EXPECT_EQ(tensorText(at::zeros({65})), "f32[65] = elided");
  EXPECT_NE(tensorText(at::zeros({64})), "f32[64] = elided");
  EXPECT_EQ(parse("f32[65] = elided").sizes(), at::IntArrayRef({65}));
}

TEST(TensorText, RandomValuesAreTheSameInEveryRun) {
  EXPECT_TRUE(at::equal(parse("f32[4] = randn(seed=3)"),
                        parse("f32[4] = randn(seed=3)")));
  EXPECT_FALSE(at::equal(parse("f32[4] = randn(seed=3)"),
                         parse("f32[4] = randn(seed=4)")));
}

TEST(TensorText, RankIsTheRank) {
  auto singular = at::linalg_svdvals(parse("f64[6, 4] = rank(2, seed=1)"));
  EXPECT_GT(singular[1].item<double>(), 1e-3);
  EXPECT_LT(singular[2].item<double>(), 1e-12);
}

TEST(TensorText, MistakesAreErrors) {
  for (const char* text :
       {"f33[2]", "f32[2", "f32[-1]", "f32[2] = [1]", "f32[2] = nonsense",
        "f32[2] = [1, 2] 3", "f32[2] = eye", "f32[x]", "f32[2] = same(a)"})
    EXPECT_THROW(parse(text), Error) << text;
}

} // namespace
} // namespace inv::opt
