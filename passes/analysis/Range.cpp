#include "passes/analysis/Range.h"

#include "passes/analysis/Dataflow.h"
#include "passes/support/GraphUtil.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_map>

namespace inv::opt {

using namespace torch::jit;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Range closed(double low, double high) { return {low, high, false, false}; }

/// The image of `r` under an increasing function. Where r is unbounded the
/// image ends at the limit, which is not reached.
Range increasing(const Range& r, double (*f)(double)) {
  return {f(r.low), f(r.high), r.lowOpen, r.highOpen};
}

Range negated(const Range& r) {
  return {-r.high, -r.low, r.highOpen, r.lowOpen};
}

Range sum(const Range& a, const Range& b) {
  return {a.low + b.low, a.high + b.high, a.lowOpen || b.lowOpen,
          a.highOpen || b.highOpen};
}

/// Of products of ends, 0 * infinity counts as 0: the end 0 is a bound, and the
/// infinite one is not reached.
double times(double a, double b) { return a == 0 || b == 0 ? 0.0 : a * b; }

Range product(const Range& a, const Range& b) {
  struct End {
    double value;
    bool open;
  };
  const End ends[] = {{times(a.low, b.low), a.lowOpen || b.lowOpen},
                      {times(a.low, b.high), a.lowOpen || b.highOpen},
                      {times(a.high, b.low), a.highOpen || b.lowOpen},
                      {times(a.high, b.high), a.highOpen || b.highOpen}};
  const auto less = [](const End& x, const End& y) {
    return x.value < y.value;
  };
  const auto [low, high] = std::minmax_element(ends, ends + 4, less);
  Range out{low->value, high->value, true, true};
  // An end is open only if every way to it is.
  for (const End& e : ends) {
    out.lowOpen &= e.value != out.low || e.open;
    out.highOpen &= e.value != out.high || e.open;
  }
  // Inside, a zero factor reaches zero; only positive or negative factors on
  // both sides keep an end at zero open.
  if (!a.excludesZero() || !b.excludesZero()) {
    out.lowOpen &= out.low != 0;
    out.highOpen &= out.high != 0;
  }
  return out;
}

Range reciprocal(const Range& r) {
  if (!r.excludesZero())
    return {};
  if (r.low >= 0)
    return {r.high == kInf ? 0.0 : 1 / r.high, r.low == 0 ? kInf : 1 / r.low,
            r.highOpen, r.lowOpen};
  return negated(reciprocal(negated(r)));
}

Range absolute(const Range& r) {
  if (r.low >= 0)
    return r;
  if (r.high <= 0)
    return negated(r);
  return {0, r.largest(), false, r.lowOpen && r.highOpen};
}

Range clamped(const Range& r, double low, double high) {
  Range out = r;
  if (low > out.low)
    out.low = low, out.lowOpen = false;
  if (high < out.high)
    out.high = high, out.highOpen = false;
  return out;
}

/// Both, and what lies between them.
Range hull(const Range& a, const Range& b) {
  Range out;
  out.low = std::min(a.low, b.low);
  out.high = std::max(a.high, b.high);
  out.lowOpen =
      (a.low != out.low || a.lowOpen) && (b.low != out.low || b.lowOpen);
  out.highOpen =
      (a.high != out.high || a.highOpen) && (b.high != out.high || b.highOpen);
  return out;
}

double softplus(double x) { return x > 30 ? x : std::log1p(std::exp(x)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

const std::unordered_map<std::string, double (*)(double)>& increasingOnes() {
  static const std::unordered_map<std::string, double (*)(double)> table = {
      {"exp", [](double x) { return std::exp(x); }},
      {"exp2", [](double x) { return std::exp2(x); }},
      {"expm1", [](double x) { return std::expm1(x); }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"atan", [](double x) { return std::atan(x); }},
      {"sinh", [](double x) { return std::sinh(x); }},
      {"asinh", [](double x) { return std::asinh(x); }},
      {"sigmoid", sigmoid},
      {"softplus", softplus},
      {"erf", [](double x) { return std::erf(x); }},
  };
  return table;
}

class Ranges {
public:
  Range of(const Value* v, int depth) {
    if (auto constant = constantNumber(v))
      return closed(*constant, *constant);
    if (auto constant = toIValue(v); constant && constant->isTensor())
      return ofConstant(constant->toTensor());
    if (depth == 0)
      return {};
    const Node* n = v->node();
    if (n->kind() == prim::ListUnpack)
      n = n->input()->node(); // pieces of a split
    if (!n->kind().is_aten() || n->inputs().empty())
      return {};
    return ofNode(n, depth - 1);
  }

private:
  static Range ofConstant(const at::Tensor& t) {
    if (!t.defined() || t.numel() == 0 || t.is_complex())
      return {};
    const at::Tensor numbers = t.to(at::kDouble);
    const double low = numbers.min().item<double>();
    const double high = numbers.max().item<double>();
    return std::isnan(low) || std::isnan(high) ? Range{} : closed(low, high);
  }

  Range ofNode(const Node* n, int depth) {
    const std::string name = n->kind().toUnqualString();
    const auto operand = [&](size_t i) { return of(n->input(i), depth); };
    const bool two = n->inputs().size() >= 2;
    if (auto f = increasingOnes().find(name); f != increasingOnes().end())
      return increasing(operand(0), f->second);
    if (makesView(n) || isCopy(name))
      return operand(0);
    if (name == "neg")
      return negated(operand(0));
    if (name == "abs")
      return absolute(operand(0));
    if (name == "relu")
      return clamped(operand(0), 0, kInf);
    if (name == "square")
      return product(absolute(operand(0)), absolute(operand(0)));
    if (name == "reciprocal")
      return reciprocal(operand(0));
    if (two && (name == "add" || name == "sub" || name == "rsub"))
      return ofSum(n, name, depth);
    if (two && name == "mul")
      return product(operand(0), operand(1));
    if (n->inputs().size() == 2 && name == "div")
      return product(operand(0), reciprocal(operand(1)));
    if (name == "clamp" || name == "hardtanh")
      return ofClamp(n, depth);
    if (n->inputs().size() == 3 && name == "where")
      return hull(operand(1), operand(2));
    if (n->inputs().size() == 3 && name == "masked_fill")
      return hull(operand(0), operand(2));
    if (two && name == "clamp_min")
      return clamped(operand(0), operand(1).low, kInf);
    if (two && name == "clamp_max")
      return clamped(operand(0), -kInf, operand(1).high);
    return {};
  }

  static bool isCopy(const std::string& name) {
    return name == "contiguous" || name == "clone" || name == "to" ||
           name == "type_as" || name == "float" || name == "double" ||
           name == "chunk" || name == "split" || name == "split_with_sizes" ||
           name == "tensor_split" || name == "unbind" || name == "index_select";
  }

  Range ofSum(const Node* n, const std::string& name, int depth) {
    Range a = of(n->input(0), depth), b = of(n->input(1), depth);
    if (n->inputs().size() > 2)
      (name == "rsub" ? a : b) =
          product(name == "rsub" ? a : b, of(n->input(2), depth));
    if (name == "add")
      return sum(a, b);
    return name == "sub" ? sum(a, negated(b)) : sum(b, negated(a));
  }

  Range ofClamp(const Node* n, int depth) {
    const auto end = [&](size_t i, double otherwise) {
      if (n->inputs().size() <= i || isNone(n->input(i)))
        return otherwise;
      const Range r = of(n->input(i), depth);
      return otherwise < 0 ? r.low : r.high;
    };
    return clamped(of(n->input(0), depth), end(1, -kInf), end(2, kInf));
  }
};

} // namespace

Range rangeOf(const Value* v) {
  constexpr int kDeepest = 24;
  const Range r = Ranges().of(v, kDeepest);
  const bool broken = std::isnan(r.low) || std::isnan(r.high);
  return broken ? Range{} : r;
}

} // namespace inv::opt
