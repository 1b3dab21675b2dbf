// Integer arithmetic on sizes, element by element (Lowering.h says why).
//
// Whatever cannot be done on ints exactly as on tensors is left to the tensors:
// a comparison that only the run can tell, a division of what may be negative
// (ONNX rounds towards zero, aten::floordiv down).
#include "passes/import/onnx/Lowering.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>

namespace inv::opt {
namespace {

using Op = bool (*)(Lowering&);

const Numbers& of(Lowering& b, size_t i) { return *b.operand(i).numbers; }

bool result(Lowering& b, Numbers numbers) {
  b.outputs.at(0).numbers = std::move(numbers);
  return true;
}

/// One result for each element, a single element standing for all.
bool elementwise(Lowering& b, const std::function<std::optional<Number>(
                                  const std::vector<Number>&)>& apply) {
  size_t count = 1;
  for (size_t i = 0; i < b.inputs(); ++i)
    if (of(b, i).size() != 1)
      count = of(b, i).size();
  Numbers numbers;
  for (size_t k = 0; k < count; ++k) {
    std::vector<Number> elements;
    for (size_t i = 0; i < b.inputs(); ++i) {
      const Numbers& all = of(b, i);
      if (all.size() != 1 && all.size() != count)
        return false;
      elements.push_back(all[all.size() == 1 ? 0 : k]);
    }
    auto number = apply(elements);
    if (!number)
      return false;
    numbers.push_back(*number);
  }
  return result(b, std::move(numbers));
}

template <Number (Lowering::*F)(const Number&, const Number&)>
bool fold(Lowering& b) {
  return elementwise(b, [&](const std::vector<Number>& e) {
    Number all = e.at(0);
    for (size_t i = 1; i < e.size(); ++i)
      all = (b.*F)(all, e[i]);
    return std::optional(all);
  });
}

bool isPositive(const Number& n) { return n.known && *n.known > 0; }

bool divide(Lowering& b) {
  return elementwise(
      b, [&](const std::vector<Number>& e) -> std::optional<Number> {
        bool floors = e[0].atLeastZero || (e[0].known && *e[0].known >= 0);
        if (!floors || !(isPositive(e[1]) || e[1].atLeastZero))
          return std::nullopt;
        return b.floorDivide(e[0], e[1]);
      });
}

bool negate(Lowering& b) {
  return elementwise(b, [&](const std::vector<Number>& e) {
    return std::optional(b.sub(0, e[0]));
  });
}

/// Whether two numbers are equal, as far as that is known.
std::optional<Number> equal(const Number& a, const Number& b) {
  if (a.known && b.known)
    return Number(int64_t{*a.known == *b.known});
  const Number& known = a.known ? a : b;
  const Number& open = a.known ? b : a;
  if (known.known && *known.known < 0 && open.atLeastZero)
    return Number(0);
  if (!a.known && !b.known && a.value == b.value)
    return Number(1);
  return std::nullopt;
}

bool compareEqual(Lowering& b) {
  return elementwise(
      b, [](const std::vector<Number>& e) { return equal(e[0], e[1]); });
}

bool choose(Lowering& b) {
  return elementwise(b,
                     [](const std::vector<Number>& e) -> std::optional<Number> {
                       if (!e[0].known)
                         return std::nullopt;
                       return *e[0].known != 0 ? e[1] : e[2];
                     });
}

/// Another shape of the same elements; only a list or one number is known as
/// such.
bool same(Lowering& b) { return result(b, of(b, 0)); }

bool cast(Lowering& b) {
  auto to = b.outputs.at(0).type.dtype;
  return (to == at::kLong || to == at::kInt) && result(b, of(b, 0));
}

bool concat(Lowering& b) {
  Numbers all;
  for (size_t i = 0; i < b.inputs(); ++i) {
    const Numbers& more = of(b, i);
    all.insert(all.end(), more.begin(), more.end());
  }
  return result(b, std::move(all));
}

bool gather(Lowering& b) {
  const Numbers& data = of(b, 0);
  if (b.rank(0) != 1)
    return false;
  Numbers chosen;
  for (const Number& at : of(b, 1)) {
    if (!at.known)
      return false;
    int64_t n = int64_t(data.size());
    int64_t k = *at.known < 0 ? *at.known + n : *at.known;
    if (k < 0 || k >= n)
      b.refuse("gathers beyond the end");
    chosen.push_back(data[size_t(k)]);
  }
  return result(b, std::move(chosen));
}

bool slice(Lowering& b) {
  const Numbers& data = of(b, 0);
  for (size_t i = 1; i < b.inputs(); ++i)
    if (!b.has(i) || of(b, i).size() != 1 || !of(b, i)[0].known)
      return false;
  int64_t n = int64_t(data.size());
  if (n == 0)
    return result(b, {});
  int64_t step = b.has(4) ? *of(b, 4)[0].known : 1;
  if (step == 0)
    b.refuse("has a step of zero");
  auto place = [&](int64_t at, int64_t least, int64_t most) {
    return std::clamp(at < 0 ? (at < -n ? least : at + n) : at, least, most);
  };
  int64_t least = step > 0 ? 0 : -1, most = step > 0 ? n : n - 1;
  int64_t start = place(*of(b, 1)[0].known, 0, most);
  int64_t end = place(*of(b, 2)[0].known, least, most);
  Numbers chosen;
  for (int64_t k = start; step > 0 ? k < end : k > end; k += step) {
    chosen.push_back(data[size_t(k)]);
    if (step > n || step < -n)
      break;
  }
  return result(b, std::move(chosen));
}

bool reduceProd(Lowering& b) {
  if (b.inputs() > 1 || b.hasAttribute("axes"))
    for (int64_t a :
         b.has(1) ? b.constants(1, "axes") : b.intsAttribute("axes"))
      if (a != 0 && a != -1)
        return false;
  return result(b, {b.product(of(b, 0))});
}

const std::map<std::string, Op>& table() {
  static const std::map<std::string, Op> kTable = {
      {"Add", fold<&Lowering::add>},
      {"Sub", fold<&Lowering::sub>},
      {"Mul", fold<&Lowering::mul>},
      {"Max", fold<&Lowering::max>},
      {"Min", fold<&Lowering::min>},
      {"Div", divide},
      {"Neg", negate},
      {"Equal", compareEqual},
      {"Where", choose},
      {"Identity", same},
      {"Squeeze", same},
      {"Unsqueeze", same},
      {"Reshape", same},
      {"Cast", cast},
      {"Concat", concat},
      {"Gather", gather},
      {"Slice", slice},
      {"ReduceProd", reduceProd},
  };
  return kTable;
}

} // namespace

bool lowerNumbers(Lowering& b) {
  auto op = table().find(b.node().op);
  if (op == table().end() || b.inputs() == 0 || b.outputs.size() != 1)
    return false;
  const OnnxType& type = b.outputs[0].type;
  if (!type.shape || type.shape->size() > 1 ||
      !at::isIntegralType(type.dtype, /*includeBool=*/true))
    return false;
  for (size_t i = 0; i < b.inputs(); ++i)
    if (b.has(i) && !b.operand(i).numbers)
      return false;
  return op->second(b);
}

} // namespace inv::opt
