#include "passes/analysis/Elements.h"

#include "passes/support/GraphUtil.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/logical_or.h>

#include <algorithm>
#include <numeric>

namespace inv::opt {

using Kind = Elements::Kind;
using Term = Elements::Term;

Elements Elements::slice(int64_t dim, int64_t start, int64_t end,
                         int64_t step) {
  Elements e;
  Term t;
  t.dim = dim;
  t.start = start;
  t.end = end;
  t.step = step;
  e.terms = {t};
  e.compact = true;
  return e;
}

Elements Elements::index(int64_t dim, std::vector<int64_t> places,
                         torch::jit::Value* indices) {
  Elements e;
  Term t;
  t.kind = Kind::Index;
  t.dim = dim;
  t.places = std::move(places);
  t.indices = indices;
  e.terms = {std::move(t)};
  e.compact = true;
  return e;
}

Elements Elements::masked(at::Tensor mask, Factor factor) {
  Elements e;
  Term t;
  t.kind = Kind::Mask;
  t.mask = std::move(mask);
  t.factors = {factor};
  e.terms = {std::move(t)};
  return e;
}

bool Elements::isMasked() const {
  return !terms.empty() &&
         std::all_of(terms.begin(), terms.end(),
                     [](const Term& t) { return t.kind == Kind::Mask; });
}

bool Term::operator==(const Term& other) const {
  if (kind != other.kind || inverted != other.inverted)
    return false;
  switch (kind) {
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

namespace {

/// Beyond every bound the pattern of places along one dimension repeats with
/// the common multiple of the steps; so one period there stands for tensors of
/// any size.
struct Window {
  int64_t dim = 0;
  int64_t last = 0, period = 1;

  int64_t end() const { return last + period; }
};

/// The window in which all of these terms show all that they do; nothing where
/// they are masks, of several dimensions, or too long to look at.
std::optional<Window> windowOf(const std::vector<const Term*>& terms) {
  constexpr int64_t kMostLooks = 1 << 20;
  Window w;
  w.dim = terms.empty() ? 0 : terms[0]->dim;
  for (const Term* t : terms) {
    if (t->kind == Kind::Mask || t->dim != w.dim)
      return std::nullopt;
    for (int64_t place : t->places)
      w.last = std::max(w.last, place + 1);
    if (t->kind == Kind::Slice) {
      if (t->step > kMostLooks)
        return std::nullopt;
      w.last = std::max(w.last, t->start);
      if (t->end != kOpenEnd)
        w.last = std::max(w.last, t->end);
      w.period = std::lcm(w.period, t->step);
    }
    if (w.last > kMostLooks || w.period > kMostLooks)
      return std::nullopt;
  }
  return w;
}

std::vector<const Term*> termsOf(const std::vector<Elements>& sets) {
  std::vector<const Term*> terms;
  for (const Elements& e : sets)
    for (const Term& t : e.terms)
      terms.push_back(&t);
  return terms;
}

/// For each place below `end`, whether one of the terms means it.
std::vector<bool> heldBy(const std::vector<const Term*>& terms, int64_t end) {
  std::vector<bool> held(static_cast<size_t>(end), false);
  for (const Term* t : terms) {
    std::vector<bool> named(held.size(), false);
    if (t->kind == Kind::Slice)
      for (int64_t i = t->start; i < std::min(t->end, end); i += t->step)
        named[static_cast<size_t>(i)] = true;
    for (int64_t i : t->places)
      if (i < end)
        named[static_cast<size_t>(i)] = true;
    for (size_t i = 0; i < held.size(); ++i)
      held[i] = held[i] || named[i] != t->inverted;
  }
  return held;
}

bool allHeld(const std::vector<const Term*>& terms, int64_t end) {
  const std::vector<bool> held = heldBy(terms, end);
  return std::all_of(held.begin(), held.end(), [](bool h) { return h; });
}

/// Each place that `inner` means is one of `outer`'s.
bool within(const std::vector<const Term*>& inner,
            const std::vector<const Term*>& outer, int64_t end) {
  const std::vector<bool> in = heldBy(inner, end), out = heldBy(outer, end);
  for (size_t i = 0; i < in.size(); ++i)
    if (in[i] && !out[i])
      return false;
  return true;
}

bool areExpandable(const Term& a, const Term& b) {
  return at::are_expandable(a.mask.sizes(), b.mask.sizes());
}

bool areDisjoint(const Term& a, const Term& b) {
  if (a.kind == Kind::Mask && b.kind == Kind::Mask)
    return areExpandable(a, b) &&
           !at::logical_and(a.mask, b.mask).any().item<bool>();
  const auto window = windowOf({&a, &b});
  if (!window)
    return false;
  const std::vector<bool> x = heldBy({&a}, window->end()),
                          y = heldBy({&b}, window->end());
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i] && y[i])
      return false;
  return true;
}

std::optional<Term> meet(const Term& a, const Term& b) {
  if (a == b)
    return a;
  if (a.kind == Kind::Mask && b.kind == Kind::Mask) {
    if (!areExpandable(a, b))
      return std::nullopt;
    Term both = a;
    both.mask = at::logical_and(a.mask, b.mask);
    both.factors.insert(both.factors.end(), b.factors.begin(), b.factors.end());
    return both;
  }
  const auto window = windowOf({&a, &b});
  if (!window)
    return std::nullopt;
  if (within({&a}, {&b}, window->end()))
    return a;
  return within({&b}, {&a}, window->end()) ? std::optional(b) : std::nullopt;
}

/// The size that the terms would cover: the largest place that indices name and
/// one more, or the end of slices none of which is open. 0 where there is none.
int64_t sizeByBounds(const std::vector<const Term*>& terms) {
  int64_t byIndices = 0, bySlices = 0;
  bool open = false;
  for (const Term* t : terms) {
    for (int64_t place : t->places)
      byIndices = std::max(byIndices, place + 1);
    open |= t->inverted;
    if (t->kind == Kind::Slice) {
      open |= t->end == kOpenEnd;
      bySlices = std::max(bySlices, t->end);
    }
  }
  if (byIndices > 0)
    return byIndices;
  return open ? 0 : bySlices;
}

/// One slice, or one set of indices in ascending order, picks the first places
/// out of more (x[:, :4], x[:, 0]).
bool isChoice(const std::vector<const Term*>& terms) {
  if (terms.size() != 1 || terms[0]->kind == Kind::Slice)
    return terms.size() == 1;
  return !terms[0]->alone && !terms[0]->inverted &&
         std::is_sorted(terms[0]->places.begin(), terms[0]->places.end());
}

bool coversEverySize(const std::vector<const Term*>& terms) {
  const auto window = windowOf(terms);
  return window && allHeld(terms, window->end());
}

bool masksCover(const std::vector<const Term*>& terms) {
  at::Tensor all = terms[0]->mask;
  for (const Term* t : terms) {
    if (!at::are_expandable(all.sizes(), t->mask.sizes()))
      return false;
    all = at::logical_or(all, t->mask);
  }
  return all.all().item<bool>();
}

} // namespace

std::optional<Elements> complement(const Elements& e) {
  if (e.terms.size() != 1)
    return std::nullopt;
  Elements rest = e;
  rest.compact = false;
  Term& t = rest.terms[0];
  if (t.kind != Kind::Mask) {
    t.inverted = !t.inverted;
    return rest;
  }
  if (t.factors.size() != 1)
    return std::nullopt;
  t.mask = at::logical_not(t.mask);
  t.factors[0].zero = !t.factors[0].zero;
  return rest;
}

std::optional<Elements> intersection(const Elements& a, const Elements& b) {
  if (a.isWhole() || b.isWhole()) {
    Elements one = a.isWhole() ? b : a;
    one.compact = false;
    return one;
  }
  Elements both;
  for (const Term& t : a.terms)
    for (const Term& u : b.terms) {
      if (areDisjoint(t, u))
        continue;
      std::optional<Term> term = meet(t, u);
      if (!term)
        return std::nullopt;
      both.terms.push_back(std::move(*term));
    }
  return both.terms.empty() ? std::nullopt : std::optional(both);
}

bool disjoint(const Elements& a, const Elements& b) {
  if (a.isWhole() || b.isWhole())
    return false;
  for (const Term& t : a.terms)
    for (const Term& u : b.terms)
      if (!areDisjoint(t, u))
        return false;
  return true;
}

bool contains(const Elements& outer, const Elements& inner) {
  if (outer.isWhole())
    return true;
  if (inner.isWhole())
    return false;
  std::vector<const Term*> terms;
  for (const Term& t : outer.terms)
    terms.push_back(&t);
  for (const Term& t : inner.terms) {
    if (t.kind == Kind::Mask) {
      at::Tensor rest = t.mask;
      for (const Term* o : terms)
        if (o->kind == Kind::Mask && areExpandable(*o, t))
          rest = at::logical_and(rest, at::logical_not(o->mask));
      if (rest.any().item<bool>())
        return false;
      continue;
    }
    std::vector<const Term*> all = terms;
    all.push_back(&t);
    const auto window = windowOf(all);
    if (!window || !within({&t}, terms, window->end()))
      return false;
  }
  return true;
}

Elements united(const std::vector<Elements>& sets) {
  Elements all;
  for (const Elements& e : sets) {
    if (e.isWhole())
      return {};
    for (const Term& t : e.terms)
      if (std::find(all.terms.begin(), all.terms.end(), t) == all.terms.end())
        all.terms.push_back(t);
  }
  return all;
}

bool covers(const std::vector<Elements>& sets) {
  if (sets.empty())
    return false;
  if (std::any_of(sets.begin(), sets.end(),
                  [](const Elements& e) { return e.isWhole(); }))
    return true;
  const std::vector<const Term*> terms = termsOf(sets);
  if (std::all_of(terms.begin(), terms.end(),
                  [](const Term* t) { return t->kind == Kind::Mask; }))
    return masksCover(terms);
  if (coversEverySize(terms))
    return true;
  if (!windowOf(terms) || isChoice(terms))
    return false;
  const int64_t size = sizeByBounds(terms);
  return size > 0 && allHeld(terms, size);
}

int64_t leastSize(const Elements& e) {
  int64_t size = 0;
  for (const Term& t : e.terms) {
    for (int64_t place : t.places)
      size = std::max(size, place + 1);
    if (t.kind == Kind::Slice)
      size = std::max(size, t.end == kOpenEnd ? t.start + 1 : t.end);
  }
  return size;
}

std::optional<int64_t> sizeImplied(const std::vector<Elements>& sets) {
  if (std::any_of(sets.begin(), sets.end(),
                  [](const Elements& e) { return e.isWhole(); }))
    return std::nullopt;
  const std::vector<const Term*> terms = termsOf(sets);
  const int64_t size = sizeByBounds(terms);
  return size > 0 && windowOf(terms) && !coversEverySize(terms)
             ? std::optional(size)
             : std::nullopt;
}

} // namespace inv::opt
