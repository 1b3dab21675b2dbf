// Chains of coupling steps: values, gradients, exact bytes, evaluation counts.
#include "Steps.h"

#include "inv/CountingAllocator.h"
#include "inv/Runtime.h"

#include <gtest/gtest.h>

namespace inv::test {
namespace {

/// Trains one step; gradients of x1, x2 and all parameters.
Tensors gradients(Chain& chain, const Tensors& inputs, bool plain,
                  Tensors* values = nullptr) {
  chain.zeroGrad();
  Tensors x = leaves(inputs);
  const Tensors y = plain ? chain.plain(x[0], x[1]) : chain.run(x[0], x[1]);
  if (values)
    *values = y;
  (y[0].sin().sum() + (y[1] * y[1]).sum()).backward();
  Tensors result = gradsOf(x);
  for (const at::Tensor& g : gradsOf(chain.parameters))
    result.push_back(g);
  return result;
}

struct ChainCase {
  at::ScalarType dtype;
  double xScale, auxScale, bound;
};

class ChainGradients : public testing::TestWithParam<ChainCase> {};

TEST_P(ChainGradients, EqualPlainAutograd) {
  const ChainCase& c = GetParam();
  at::manual_seed(1);
  Chain chain(6, 8, c.dtype, c.xScale, c.auxScale);
  const auto options = at::TensorOptions().dtype(c.dtype);
  const Tensors inputs = {at::randn({5, 8}, options),
                          at::randn({5, 8}, options)};
  Tensors values, reference;
  const Tensors ours = gradients(chain, inputs, false, &values);
  const Tensors plain = gradients(chain, inputs, true, &reference);
  EXPECT_TRUE(at::equal(values[0], reference[0])); // bit for bit
  EXPECT_TRUE(at::equal(values[1], reference[1]));
  EXPECT_LE(distance(ours, plain), c.bound);
}

INSTANTIATE_TEST_SUITE_P(All, ChainGradients,
                         testing::Values(ChainCase{at::kFloat, 1, 1, 2e-6},
                                         ChainCase{at::kDouble, 1, 1, 1e-13},
                                         ChainCase{at::kDouble, 1, -1, 1e-13},
                                         ChainCase{at::kFloat, 0.9, 1, 4e-6},
                                         ChainCase{at::kDouble, -0.9, -1,
                                                   1e-12}));

TEST(Chain, CutFromAndJoinedToOneTensor) {
  at::manual_seed(2);
  Chain chain(4, 8, at::kDouble);
  const at::Tensor x0 = at::randn({5, 16}, at::kDouble);
  const auto train = [&](bool plain) {
    chain.zeroGrad();
    at::Tensor x = x0.clone().requires_grad_();
    const Tensors halves = x.chunk(2, 1);
    const Tensors y = plain ? chain.plain(halves[0], halves[1])
                            : chain.run(halves[0], halves[1]);
    at::cat(y, 1).sin().sum().backward();
    Tensors result = gradsOf(chain.parameters);
    result.push_back(x.grad());
    return result;
  };
  const Tensors ours = train(false);
  EXPECT_LE(distance(ours, train(true)), 1e-13);
}

TEST(Chain, NothingIsAliveAfterAStep) {
  {
    Chain chain(4, 8, at::kFloat);
    gradients(chain, {at::randn({5, 8}), at::randn({5, 8})}, false);
  }
  expectNothingAlive();
}

TEST(Chain, ConditionersRunTwiceAStep) {
  constexpr int kBlocks = 6;
  Chain chain(kBlocks, 8, at::kFloat);
  resetStats();
  gradients(chain, {at::randn({5, 8}), at::randn({5, 8})}, false);
  const Stats s = stats();
  EXPECT_EQ(s.conditioners, 2 * 2 * kBlocks);
  EXPECT_EQ(s.pulls, 0);
  EXPECT_EQ(s.kept, 0);
  EXPECT_EQ(s.rngSaved, 0);
}

/// Peak of one training step over the level before it, gradients allocated.
int64_t peakOfStep(int64_t blocks, bool plain) {
  Chain chain(blocks, 16, at::kFloat);
  for (at::Tensor& p : chain.parameters)
    p.mutable_grad() = at::zeros_like(p);
  at::Tensor x = at::randn({64, 32});
  const auto step = [&] {
    const Tensors halves = (x * 1).requires_grad_().chunk(2, 1);
    const Tensors y = plain ? chain.plain(halves[0], halves[1])
                            : chain.run(halves[0], halves[1]);
    at::cat(y, 1).sum().backward();
  };
  step(); // whatever is made once
  const int64_t before = CountingAllocator::current();
  CountingAllocator::resetPeak();
  step();
  EXPECT_EQ(CountingAllocator::current(), before);
  return CountingAllocator::peak() - before;
}

TEST(Chain, PeakBytesAreTheSameAtEveryDepth) {
  CountingAllocator::install();
  const int64_t at8 = peakOfStep(8, false);
  EXPECT_EQ(peakOfStep(32, false), at8);
  EXPECT_EQ(peakOfStep(128, false), at8);
  EXPECT_EQ(peakOfStep(1000, false), at8);
  const int64_t plain = peakOfStep(32, true);
  RecordProperty("peak_bytes", std::to_string(at8));
  RecordProperty("peak_bytes_plain_32", std::to_string(plain));
  EXPECT_LE(10 * at8, plain);
  expectNothingAlive();
}

TEST(Chain, ALongChainDiesWithoutRecursion) {
  {
    Chain chain(1, 4, at::kFloat);
    at::Tensor a = at::randn({2, 4}), b = at::randn({2, 4}).requires_grad_();
    for (int i = 0; i < 20000; i++) {
      Tensors out = coupling(chain.step, {a}, {b},
                             {chain.parameters[0], chain.parameters[1]});
      a = out[1];
      b = out[0];
    }
    EXPECT_GE(stats().liveNodes, 20000);
  }
  expectNothingAlive();
}

TEST(Chain, BackwardOfAThousandBlocks) {
  Chain chain(1000, 4, at::kDouble, 1, 1);
  for (at::Tensor& p : chain.parameters)
    p.detach().mul_(0.01);
  const Tensors inputs = {at::randn({2, 4}, at::kDouble),
                          at::randn({2, 4}, at::kDouble)};
  const Tensors ours = gradients(chain, inputs, false);
  EXPECT_LE(distance(ours, gradients(chain, inputs, true)), 1e-10);
}

} // namespace
} // namespace inv::test
