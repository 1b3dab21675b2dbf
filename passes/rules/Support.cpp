#include "passes/rules/Support.h"

#include "passes/rules/Indices.h"
#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"
#include "passes/support/Written.h"

#include <ATen/ops/eq.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/ne.h>

#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The value of a tensor that is the same in each call, as far as the model
/// itself goes: a mask's shape and place, but for broadcasting and casts.
std::optional<at::Tensor> fixedTensor(Value* v, const RuleContext& context) {
  static const std::unordered_set<Symbol> through = {
      aten::to, aten::type_as, aten::expand, aten::expand_as,
      Symbol::fromQualString("aten::float")};
  Value* source = v;
  while (through.count(source->node()->kind()))
    source = source->node()->input(0);
  const ValueId id = context.flow.idOf(source);
  if (id < 0 || !isTensor(context.flow.value(id)) ||
      !context.flow.value(id).fixed)
    return std::nullopt;
  const auto value = savedValue(source, context);
  return value && !value->is_complex() ? value : std::nullopt;
}

bool isZeroScalar(const Value* v) { return constantScalar(v) == 0.0; }
bool isOneScalar(const Value* v) { return constantScalar(v) == 1.0; }

bool isTensorValue(const Value* v) {
  return v->type()->isSubtypeOf(*c10::TensorType::get());
}

std::optional<Elements> complementOf(const std::optional<Elements>& e) {
  return e ? complement(*e) : std::nullopt;
}

} // namespace

std::optional<Elements> maskOf(Value* m, const RuleContext& context,
                               bool zero) {
  auto value = fixedTensor(m, context);
  if (!value || value->dim() == 0)
    return std::nullopt;
  at::Tensor on = at::ne(*value, 0);
  if (value->scalar_type() != at::kBool &&
      !at::eq(*value, on).all().item<bool>())
    return std::nullopt;
  if (on.all().item<bool>() || !on.any().item<bool>())
    return std::nullopt;
  return Elements::masked(zero ? at::logical_not(on) : on, {m, zero});
}

std::optional<Elements> supportOf(Value* v, const RuleContext& context,
                                  int depth) {
  Node* n = v->node();
  if (depth == 0 || n->inputs().empty() ||
      !n->input(0)->type()->isSubtypeOf(*c10::TensorType::get()))
    return std::nullopt;
  auto of = [&](size_t i) {
    return supportOf(n->input(i), context, depth - 1);
  };
  if (n->kind() == aten::mul) {
    std::optional<Elements> all;
    for (Value* factor : n->inputs()) {
      if (!factor->type()->isSubtypeOf(*c10::TensorType::get()))
        continue;
      auto one = maskOf(factor, context);
      if (!one)
        one = supportOf(factor, context, depth - 1);
      if (one)
        all = all ? intersection(*all, *one) : one;
    }
    return all;
  }
  if (n->kind() == aten::neg || n->kind() == aten::contiguous ||
      (n->kind() == aten::div && n->inputs().size() == 2))
    return of(0);
  if ((n->kind() == aten::add || n->kind() == aten::sub) &&
      n->input(1)->type()->isSubtypeOf(*c10::TensorType::get())) {
    const auto a = of(0), b = of(1);
    return a && b && *a == *b ? a : std::nullopt;
  }
  if (n->kind() == aten::masked_fill && isZeroScalar(n->input(2)))
    return maskOf(n->input(1), context, true);
  if (n->kind() == aten::where && n->inputs().size() == 3) {
    if (isZeroScalar(n->input(2)))
      return maskOf(n->input(0), context);
    if (isZeroScalar(n->input(1)))
      return maskOf(n->input(0), context, true);
  }
  return std::nullopt;
}

std::optional<Elements> elementsOf(const PlaceView& view,
                                   const RuleContext& context) {
  const auto dim = constantInt(view.dim);
  if (!dim)
    return std::nullopt;
  const auto start = !view.start || isNone(view.start)
                         ? std::optional<int64_t>(0)
                         : constantInt(view.start);
  switch (view.kind) {
  case PlaceView::Kind::Select:
    if (!start || *start < 0)
      return std::nullopt;
    return Elements::index(*dim, {*start}, nullptr);
  case PlaceView::Kind::Slice: {
    const auto end = isNone(view.end) ? kOpenEnd : constantInt(view.end);
    const auto step = constantInt(view.step);
    if (!start || !end || !step || *start < 0 || *end < 0)
      return std::nullopt;
    return Elements::slice(*dim, *start, *end, *step);
  }
  case PlaceView::Kind::Index:
    return indexElements(view.indices, *dim, context);
  }
  return std::nullopt;
}

std::optional<Elements> onesOf(Value* v, const RuleContext& context) {
  Node* n = v->node();
  if (n->kind() == aten::exp)
    return complementOf(supportOf(n->input(0), context));
  if (n->kind() == aten::masked_fill && isOneScalar(n->input(2)))
    return maskOf(n->input(1), context);
  if (n->kind() == aten::where && n->inputs().size() == 3) {
    if (isOneScalar(n->input(2)))
      return maskOf(n->input(0), context, true);
    return isOneScalar(n->input(1)) ? maskOf(n->input(0), context)
                                    : std::nullopt;
  }
  if (n->kind() != aten::add || n->inputs().size() < 2 ||
      (n->inputs().size() > 2 && constantScalar(n->input(2)) != 1.0))
    return std::nullopt;
  for (size_t i = 0; i < 2; ++i) {
    const auto rest = supportOf(n->input(1 - i), context);
    if (!rest)
      continue;
    if (isOneScalar(n->input(i)))
      return complement(*rest);
    // m + (1 - m) * e
    if (auto mask = isTensorValue(n->input(i)) ? maskOf(n->input(i), context)
                                               : std::nullopt;
        mask && disjoint(*mask, *rest))
      return mask;
  }
  return std::nullopt;
}

std::optional<Elements> unchangedBy(Node* n, const Value* x,
                                    const RuleContext& context) {
  const size_t inputs = n->inputs().size();
  const auto other = [&] { return n->input(n->input(0) == x ? 1 : 0); };
  if ((n->kind() == aten::add || n->kind() == aten::sub) && inputs >= 2) {
    const bool first = n->input(0) == x;
    const bool plain = inputs < 3 || constantScalar(n->input(2)) == 1.0;
    if (n->input(0) == n->input(1) || !isTensorValue(other()) ||
        (!first && (n->kind() == aten::sub || !plain)))
      return std::nullopt;
    return complementOf(supportOf(other(), context));
  }
  if ((n->kind() == aten::mul || n->kind() == aten::div) && inputs == 2) {
    if (n->input(0) == n->input(1) || !isTensorValue(other()) ||
        (n->kind() == aten::div && n->input(0) != x))
      return std::nullopt;
    auto ones = onesOf(other(), context);
    return ones ? ones : maskOf(other(), context);
  }
  if (n->kind() == aten::masked_fill && n->input(0) == x)
    return maskOf(n->input(1), context, true);
  if (n->kind() == aten::where && inputs == 3) {
    if (n->input(1) == n->input(2))
      return std::nullopt;
    return maskOf(n->input(0), context, n->input(2) == x);
  }
  if (n->kind() != writtenSymbol())
    return std::nullopt;
  const Written w = writtenOf(n);
  if (w.pieces.size() != 2 || w.pieces[0].value != x ||
      !w.pieces[0].place.empty() || w.pieces[1].place.size() != 1)
    return std::nullopt;
  return complementOf(elementsOf(w.pieces[1].place[0], context));
}

} // namespace inv::opt
