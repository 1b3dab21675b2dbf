#include "passes/analysis/Range.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/ir/irparser.h>

#include <cmath>
#include <string>

namespace inv::opt {
namespace {

using torch::jit::Graph;

/// The range of what `body` leaves in %s, with %x unknown.
Range of(const std::string& body) {
  auto graph = std::make_shared<Graph>();
  torch::jit::parseIR("graph(%x : Tensor, %w : Tensor):\n"
                      "  %1 : int = prim::Constant[value=1]()\n"
                      "  %2 : int = prim::Constant[value=2]()\n"
                      "  %half : float = prim::Constant[value=0.5]()\n"
                      "  %zero : float = prim::Constant[value=0.]()\n" +
                          body + "  return (%s)\n",
                      graph.get());
  return rangeOf(graph->outputs().at(0));
}

TEST(Range, OfAnUnknownValueIsEverything) {
  const Range r = of("  %s : Tensor = aten::matmul(%x, %w)\n");
  EXPECT_FALSE(r.excludesZero());
  EXPECT_TRUE(std::isinf(r.largest()));
}

TEST(Range, ExpIsPositiveAndComesCloseToZero) {
  const Range r = of("  %s : Tensor = aten::exp(%x)\n");
  EXPECT_TRUE(r.excludesZero());
  EXPECT_EQ(r.smallest(), 0.0);
}

TEST(Range, ExpOfTanhIsBounded) {
  const Range r = of("  %t : Tensor = aten::tanh(%x)\n"
                     "  %s : Tensor = aten::exp(%t)\n");
  EXPECT_DOUBLE_EQ(r.smallest(), std::exp(-1.0));
  EXPECT_DOUBLE_EQ(r.largest(), std::exp(1.0));
}

TEST(Range, ReluReachesZero) {
  EXPECT_FALSE(of("  %s : Tensor = aten::relu(%x)\n").excludesZero());
}

TEST(Range, ReluPlusAHalfDoesNot) {
  const Range r = of("  %r : Tensor = aten::relu(%x)\n"
                     "  %s : Tensor = aten::add(%r, %half, %1)\n");
  EXPECT_EQ(r.smallest(), 0.5);
}

TEST(Range, SigmoidMinusAHalfContainsZero) {
  EXPECT_FALSE(of("  %r : Tensor = aten::sigmoid(%x)\n"
                  "  %s : Tensor = aten::sub(%r, %half, %1)\n")
                   .excludesZero());
}

TEST(Range, SigmoidMinusOneIsNegative) {
  EXPECT_TRUE(of("  %r : Tensor = aten::sigmoid(%x)\n"
                 "  %s : Tensor = aten::sub(%r, %1, %1)\n")
                  .excludesZero());
}

TEST(Range, AlphaScalesTheSecondOperand) {
  const Range r = of("  %r : Tensor = aten::sigmoid(%x)\n"
                     "  %s : Tensor = aten::add(%2, %r, %2)\n");
  EXPECT_EQ(r.low, 2.0);
  EXPECT_EQ(r.high, 4.0);
}

TEST(Range, OfRsubIsTheOtherWayRound) {
  const Range r = of("  %r : Tensor = aten::sigmoid(%x)\n"
                     "  %s : Tensor = aten::rsub(%r, %2, %1)\n");
  EXPECT_EQ(r.low, 1.0);
  EXPECT_EQ(r.high, 2.0);
}

TEST(Range, AProductOfPositiveFactorsIsPositive) {
  EXPECT_TRUE(of("  %a : Tensor = aten::exp(%x)\n"
                 "  %b : Tensor = aten::softplus(%w, %1, %2)\n"
                 "  %s : Tensor = aten::mul(%a, %b)\n")
                  .excludesZero());
}

TEST(Range, AProductWithAFactorThatMayBeZeroMayBeZero) {
  EXPECT_FALSE(of("  %a : Tensor = aten::exp(%x)\n"
                  "  %b : Tensor = aten::relu(%w)\n"
                  "  %s : Tensor = aten::mul(%a, %b)\n")
                   .excludesZero());
}

TEST(Range, TimesZeroIsZero) {
  EXPECT_FALSE(of("  %a : Tensor = aten::exp(%x)\n"
                  "  %s : Tensor = aten::mul(%a, %zero)\n")
                   .excludesZero());
}

TEST(Range, TheReciprocalOfABoundedScale) {
  const Range r = of("  %t : Tensor = aten::sigmoid(%x)\n"
                     "  %b : Tensor = aten::add(%t, %1, %1)\n"
                     "  %s : Tensor = aten::div(%half, %b)\n");
  EXPECT_EQ(r.low, 0.25);
  EXPECT_EQ(r.high, 0.5);
}

TEST(Range, ClampBoundsBothEnds) {
  const Range r = of("  %s : Tensor = aten::clamp(%x, %half, %2)\n");
  EXPECT_EQ(r.smallest(), 0.5);
  EXPECT_EQ(r.largest(), 2.0);
}

TEST(Range, PiecesAndViewsHaveTheRangeOfTheWhole) {
  const Range r = of("  %a : Tensor = aten::sigmoid(%x)\n"
                     "  %l : Tensor[] = aten::chunk(%a, %2, %1)\n"
                     "  %p : Tensor, %q : Tensor = prim::ListUnpack(%l)\n"
                     "  %s : Tensor = aten::transpose(%q, %1, %2)\n");
  EXPECT_TRUE(r.excludesZero());
  EXPECT_EQ(r.largest(), 1.0);
}

TEST(Range, TheSquareMayBeZero) {
  EXPECT_FALSE(of("  %s : Tensor = aten::square(%x)\n").excludesZero());
}

} // namespace
} // namespace inv::opt
