#include "passes/analysis/Elements.h"

#include "passes/support/GraphUtil.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

namespace inv::opt::testing {
namespace {

Elements slice(int64_t start, int64_t end, int64_t step) {
  return Elements::slice(1, start, end, step);
}
Elements places(std::vector<int64_t> list) {
  return Elements::index(1, std::move(list), nullptr);
}
Elements mask(const std::vector<int64_t>& on) {
  return Elements::masked(at::tensor(on).to(at::kBool), {});
}

TEST(Elements, NothingCoversNothing) { EXPECT_FALSE(covers({})); }

TEST(Elements, TheWholeCoversWhateverElseThereIs) {
  EXPECT_TRUE(covers({places({5}), Elements{}}));
}

TEST(Elements, EvenAndOddCover) {
  EXPECT_TRUE(covers({slice(0, kOpenEnd, 2), slice(1, kOpenEnd, 2)}));
}

TEST(Elements, AMissingResidueIsSeenBeyondTheFirstElements) {
  // 0, 1, 2, then every multiple of 2 and of 3: 5 is the first that is missing.
  EXPECT_FALSE(
      covers({slice(0, 3, 1), slice(0, kOpenEnd, 2), slice(0, kOpenEnd, 3)}));
}

TEST(Elements, ALateStartLeavesTheFirstElements) {
  EXPECT_FALSE(covers({slice(2, kOpenEnd, 2), slice(1, kOpenEnd, 2)}));
}

TEST(Elements, AnEndThatIsNotOpenLeavesTheLongerTensors) {
  EXPECT_FALSE(covers({slice(0, 100, 2), slice(1, kOpenEnd, 2)}));
}

TEST(Elements, SlicesMayMeetAtABoundAndOverlap) {
  EXPECT_TRUE(covers({slice(0, 5, 1), slice(3, kOpenEnd, 1)}));
  EXPECT_FALSE(covers({slice(0, 5, 1), slice(6, kOpenEnd, 1)}));
}

TEST(Elements, SlicesThatEndTogetherImplyTheSize) {
  EXPECT_TRUE(covers({slice(0, 2, 1), slice(2, 4, 1)}));
  EXPECT_EQ(sizeImplied({slice(0, 2, 1), slice(2, 4, 1)}), 4);
  EXPECT_FALSE(covers({slice(0, 4, 1)})); // the first four of more
  EXPECT_FALSE(covers({slice(0, 2, 1), slice(3, 4, 1)}));
}

TEST(Elements, SlicesOfTwoDimensionsDoNotAddUp) {
  EXPECT_FALSE(
      covers({slice(0, kOpenEnd, 2), Elements::slice(2, 1, kOpenEnd, 2)}));
}

TEST(Elements, HugeStepsAreNotCountedOut) {
  EXPECT_FALSE(covers({slice(0, kOpenEnd, int64_t(1) << 40)}));
}

TEST(Elements, IndicesCoverUpToTheLargest) {
  EXPECT_TRUE(covers({places({2, 0}), places({1, 3})}));
  EXPECT_EQ(sizeImplied({places({2, 0}), places({1, 3})}), 4);
  EXPECT_FALSE(covers({places({2, 0}), places({3})}));
  EXPECT_FALSE(covers({places({1, 2})}));
}

TEST(Elements, TheFirstPlacesInOrderAreAChoiceAPermutationIsNot) {
  EXPECT_FALSE(covers({places({0})}));
  EXPECT_FALSE(covers({places({0, 1, 2})}));
  EXPECT_TRUE(covers({places({0, 2, 1})}));
}

TEST(Elements, SlicesAndMasksImplyNoSize) {
  EXPECT_FALSE(sizeImplied({slice(0, kOpenEnd, 1)}));
  EXPECT_FALSE(sizeImplied({mask({1})}));
}

TEST(Elements, MasksCoverByValue) {
  EXPECT_TRUE(covers({mask({1, 0, 0}), mask({0, 1, 1})}));
  EXPECT_FALSE(covers({mask({1, 0, 0}), mask({0, 1, 0})}));
}

TEST(Elements, MasksOfOtherSizesBroadcastOrNot) {
  EXPECT_TRUE(
      covers({mask({1, 0}),
              Elements::masked(at::tensor({0, 1}).to(at::kBool).reshape({1, 2}),
                               {})}));
  EXPECT_FALSE(covers({mask({1, 0}), mask({0, 1, 1})}));
}

TEST(Elements, MasksMeetWhereBothAreTrue) {
  const auto both = intersection(mask({1, 1, 0}), mask({0, 1, 1}));
  ASSERT_TRUE(both);
  EXPECT_EQ(*both, mask({0, 1, 0}));
  EXPECT_EQ(both->terms.at(0).factors.size(), 2u);
}

TEST(Elements, PlacesMeetWhereOneSetIsInTheOther) {
  EXPECT_FALSE(intersection(slice(0, kOpenEnd, 2), mask({1, 0})));
  EXPECT_EQ(*intersection(slice(0, kOpenEnd, 2), slice(0, kOpenEnd, 4)),
            slice(0, kOpenEnd, 4));
  EXPECT_FALSE(intersection(slice(0, kOpenEnd, 2), slice(0, kOpenEnd, 3)));
  EXPECT_EQ(*intersection(places({1, 3}), slice(0, 4, 1)), places({1, 3}));
  EXPECT_EQ(*intersection(Elements{}, places({1})), places({1}));
}

TEST(Elements, NothingIsLeftWhereSetsDoNotMeet) {
  EXPECT_FALSE(intersection(slice(0, kOpenEnd, 2), slice(1, kOpenEnd, 2)));
}

TEST(Elements, OfAUnionEachTermMeets) {
  const Elements u = united({slice(0, 2, 1), slice(4, 6, 1)});
  ASSERT_EQ(u.terms.size(), 2u);
  EXPECT_FALSE(u.compact);
  const auto both = intersection(u, slice(0, 5, 1));
  EXPECT_FALSE(both); // [4, 6) and [0, 5) overlap, neither is in the other
  EXPECT_EQ(*intersection(u, slice(0, 6, 1)), u);
}

TEST(Elements, DisjointIsSaidOfMasksAndOfPlacesAlongOneDimension) {
  EXPECT_TRUE(disjoint(mask({1, 0}), mask({0, 1})));
  EXPECT_FALSE(disjoint(mask({1, 0}), mask({1, 1})));
  EXPECT_TRUE(disjoint(places({0}), places({1})));
  EXPECT_FALSE(disjoint(places({0, 1}), places({1})));
  EXPECT_TRUE(disjoint(places({0, 2}), slice(1, kOpenEnd, 2)));
  EXPECT_FALSE(disjoint(places({0}), Elements::slice(2, 1, kOpenEnd, 1)));
}

TEST(Elements, TheComplementOfATermIsTheRest) {
  const auto rest = complement(slice(0, kOpenEnd, 2));
  ASSERT_TRUE(rest);
  EXPECT_TRUE(covers({slice(0, kOpenEnd, 2), *rest}));
  EXPECT_TRUE(disjoint(slice(0, kOpenEnd, 2), *rest));
  EXPECT_TRUE(covers({places({1, 3}), *complement(places({1, 3}))}));
  EXPECT_FALSE(sizeImplied({places({1, 3}), *complement(places({1, 3}))}));
  EXPECT_EQ(*complement(mask({1, 0})), mask({0, 1}));
  EXPECT_FALSE(complement(united({slice(0, 2, 1), slice(4, 6, 1)})));
}

TEST(Elements, ContainsLooksAtAllTermsTogether) {
  EXPECT_TRUE(
      contains(united({slice(0, 2, 1), slice(2, 4, 1)}), slice(1, 3, 1)));
  EXPECT_FALSE(contains(slice(0, kOpenEnd, 2), slice(0, 3, 1)));
  EXPECT_TRUE(contains(mask({1, 1, 0}), mask({0, 1, 0})));
  EXPECT_FALSE(contains(mask({1, 1, 0}), mask({0, 1, 1})));
  EXPECT_TRUE(contains({}, mask({1, 0})));
  EXPECT_FALSE(contains(mask({1, 0}), {}));
}

TEST(Elements, PlacesAndSlicesCoverTogether) {
  // The first one, and the rest.
  EXPECT_TRUE(covers({places({0}), slice(1, kOpenEnd, 1)}));
  EXPECT_FALSE(sizeImplied({places({0}), slice(1, kOpenEnd, 1)}));
  EXPECT_TRUE(covers({places({0, 2}), slice(1, 2, 1)}));
  EXPECT_EQ(sizeImplied({places({0, 2}), slice(1, 2, 1)}), 3);
}

TEST(Elements, PlacesInOrderAreAllWhereNothingElseIsRead) {
  Elements all = places({0, 1, 2});
  all.terms[0].alone = true;
  EXPECT_TRUE(covers({all}));
  EXPECT_EQ(sizeImplied({all}), 3);
}

} // namespace
} // namespace inv::opt::testing
