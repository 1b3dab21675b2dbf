#include "passes/analysis/Elements.h"

#include "passes/support/GraphUtil.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_or.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace inv::opt {

Elements Elements::slice(int64_t dim, int64_t start, int64_t end,
                         int64_t step) {
  Elements e;
  e.kind = Kind::Slice;
  e.dim = dim;
  e.start = start;
  e.end = end;
  e.step = step;
  return e;
}

Elements Elements::index(int64_t dim, std::vector<int64_t> places,
                         torch::jit::Value* indices) {
  Elements e;
  e.kind = Kind::Index;
  e.dim = dim;
  e.places = std::move(places);
  e.indices = indices;
  return e;
}

Elements Elements::masked(at::Tensor mask, Factor factor) {
  Elements e;
  e.kind = Kind::Mask;
  e.mask = std::move(mask);
  e.factors = {factor};
  return e;
}

bool Elements::operator==(const Elements& other) const {
  if (kind != other.kind)
    return false;
  switch (kind) {
  case Kind::Whole:
    return true;
  case Kind::Slice:
    return dim == other.dim && start == other.start && end == other.end &&
           step == other.step;
  case Kind::Index:
    return dim == other.dim && places == other.places;
  case Kind::Mask:
    return mask.equal(other.mask);
  }
  return false;
}

std::optional<Elements> intersection(const Elements& a, const Elements& b) {
  if (a.isWhole())
    return b;
  if (b.isWhole() || a == b)
    return a;
  if (a.kind != Elements::Kind::Mask || b.kind != Elements::Kind::Mask ||
      !at::are_expandable(a.mask.sizes(), b.mask.sizes()))
    return std::nullopt;
  Elements both = a;
  both.mask = at::logical_and(a.mask, b.mask);
  both.factors.insert(both.factors.end(), b.factors.begin(), b.factors.end());
  return both;
}

bool disjoint(const Elements& a, const Elements& b) {
  const std::optional<Elements> both = intersection(a, b);
  return both && both->kind == Elements::Kind::Mask &&
         !both->mask.any().item<bool>();
}

namespace {

/// Whether i is one of the slice's elements in a tensor that is long enough.
bool holds(const Elements& slice, int64_t i) {
  return i >= slice.start && i < slice.end &&
         (i - slice.start) % slice.step == 0;
}

/// Beyond every bound the pattern repeats with the common multiple of the
/// steps; so one period there stands for tensors of any size.
bool slicesCover(const std::vector<Elements>& slices) {
  constexpr int64_t kMostLooks = 1 << 16;
  int64_t last = 0, period = 1;
  for (const Elements& s : slices) {
    if (s.dim != slices[0].dim || s.step > kMostLooks)
      return false;
    last = std::max(last, s.start);
    if (s.end != kOpenEnd)
      last = std::max(last, s.end);
    period = std::lcm(period, s.step);
    if (last > kMostLooks || period > kMostLooks)
      return false;
  }
  for (int64_t i = 0; i < last + period; ++i)
    if (std::none_of(slices.begin(), slices.end(),
                     [&](const Elements& s) { return holds(s, i); }))
      return false;
  return true;
}

bool indicesCover(const std::vector<Elements>& sets) {
  // One set in ascending order picks the first places out of more (x[:, 0]);
  // it would be pointless if these were all.
  if (sets.size() == 1 &&
      std::is_sorted(sets[0].places.begin(), sets[0].places.end()))
    return false;
  std::set<int64_t> all;
  for (const Elements& s : sets) {
    if (s.dim != sets[0].dim)
      return false;
    all.insert(s.places.begin(), s.places.end());
  }
  return !all.empty() && *all.begin() == 0 &&
         *all.rbegin() == int64_t(all.size()) - 1;
}

bool masksCover(const std::vector<Elements>& sets) {
  at::Tensor all = sets[0].mask;
  for (const Elements& s : sets) {
    if (!at::are_expandable(all.sizes(), s.mask.sizes()))
      return false;
    all = at::logical_or(all, s.mask);
  }
  return all.all().item<bool>();
}

} // namespace

bool covers(const std::vector<Elements>& sets) {
  if (sets.empty())
    return false;
  for (const Elements& s : sets) {
    if (s.isWhole())
      return true;
    if (s.kind != sets[0].kind)
      return false;
  }
  switch (sets[0].kind) {
  case Elements::Kind::Slice:
    return slicesCover(sets);
  case Elements::Kind::Index:
    return indicesCover(sets);
  case Elements::Kind::Mask:
    return masksCover(sets);
  case Elements::Kind::Whole:
    break;
  }
  return true;
}

std::optional<int64_t> sizeImplied(const std::vector<Elements>& sets) {
  int64_t size = 0;
  for (const Elements& s : sets) {
    if (s.kind != Elements::Kind::Index)
      return std::nullopt;
    for (int64_t place : s.places)
      size = std::max(size, place + 1);
  }
  return size;
}

} // namespace inv::opt
