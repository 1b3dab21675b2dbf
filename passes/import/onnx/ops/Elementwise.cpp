// Operators that work element by element.
#include "passes/import/onnx/ops/Support.h"

#include <cmath>

namespace inv::opt::lower {

void identity(Lowering& b) { b.outputs[0] = b.operand(0); }

void unary(Lowering& b) { b.out(b.call(b.aten, {b.in(0)})); }

/// Two operands, one of which may be a number.
void binary(Lowering& b) {
  if (auto number = scalar(b, 1, 0))
    return b.out(b.call(b.aten, {b.in(0), *number}));
  b.out(b.call(b.aten, {b.in(0), b.in(1)}));
}

/// The same, where the operands may change places.
void commutative(Lowering& b) {
  if (auto number = scalar(b, 0, 1))
    return b.out(b.call(b.aten, {b.in(1), *number}));
  binary(b);
}

void subtract(Lowering& b) {
  if (auto number = scalar(b, 0, 1))
    return b.out(b.call("rsub", {b.in(1), *number}));
  binary(b);
}

/// Of integers: rounded towards zero.
void divide(Lowering& b) {
  if (b.isFloat(0))
    return binary(b);
  b.out(b.call("div", {b.in(0), b.in(1)},
               {NamedValue("rounding_mode", "trunc")}));
}

/// A power has the type of its base.
void power(Lowering& b) {
  Value* y = nullptr;
  auto exponent = b.constantScalar(1);
  if (exponent && b.knownRank(0) && b.constant(1)->dim() <= b.rank(0)) {
    bool whole = std::floor(*exponent) == *exponent && !b.isFloat(1);
    c10::IValue number =
        whole ? c10::IValue(int64_t(*exponent)) : c10::IValue(*exponent);
    y = b.call("pow", {b.in(0), number});
  } else {
    y = b.call("pow", {b.in(0), b.in(1)});
  }
  bool exact = b.dtype(0) == b.dtype(1) || (b.isFloat(0) && !b.isFloat(1));
  b.out(exact ? y : b.cast(y, b.dtype(0)));
}

void modulo(Lowering& b) {
  bool fmod = b.intAttribute("fmod", 0) != 0;
  if (!fmod && b.isFloat(0))
    b.refuse("of floating-point numbers needs fmod=1");
  b.out(b.call(fmod ? "fmod" : "remainder", {b.in(0), b.in(1)}));
}

/// Sum, Max, Min, Mean of any number of operands.
void variadic(Lowering& b) {
  Value* all = b.in(0);
  for (size_t i = 1; i < b.inputs(); ++i)
    all = b.call(b.aten, {all, b.in(i)});
  if (b.node().op == "Mean")
    all = b.call("div", {all, double(b.inputs())});
  b.out(all);
}

void bitShift(Lowering& b) {
  bool left = b.stringAttribute("direction", "") == "LEFT";
  b.out(b.call(left ? "bitwise_left_shift" : "bitwise_right_shift",
               {b.in(0), b.in(1)}));
}

void where(Lowering& b) { b.out(b.call("where", {b.in(0), b.in(1), b.in(2)})); }

void isInf(Lowering& b) {
  bool negative = b.intAttribute("detect_negative", 1) != 0;
  bool positive = b.intAttribute("detect_positive", 1) != 0;
  if (negative && positive)
    b.out(b.call("isinf", {b.in(0)}));
  else if (negative || positive)
    b.out(b.call(negative ? "isneginf" : "isposinf", {b.in(0)}));
  else
    b.out(b.call("zeros_like", {b.in(0)},
                 {NamedValue("dtype", int64_t(at::kBool))}));
}

void cast(Lowering& b) {
  auto to = b.outputs[0].type.dtype;
  if (b.node().op == "CastLike")
    to = b.dtype(1);
  if (to == at::ScalarType::Undefined)
    b.refuse("gives a type that is not read");
  if (b.dtype(0) == to)
    return identity(b);
  b.out(b.cast(b.in(0), to));
}

/// An optional bound of Clip: a number, a tensor, or none.
namespace {
std::optional<c10::IValue> bound(Lowering& b, size_t i) {
  if (!b.has(i))
    return none();
  auto number = b.constantScalar(i);
  if (!number)
    return std::nullopt;
  return b.isFloat(i) ? c10::IValue(*number)
                      : c10::IValue(b.constant(i)->item().toLong());
}
} // namespace

void clip(Lowering& b) {
  auto low = bound(b, 1), high = bound(b, 2);
  if (!b.has(1) && !b.has(2))
    return identity(b);
  if (low && high)
    return b.out(b.call("clamp", {b.in(0), *low, *high}));
  Value* x = b.in(0);
  if (b.has(1))
    x = b.call("clamp_min", {x, b.in(1)});
  b.out(b.has(2) ? b.call("clamp_max", {x, b.in(2)}) : x);
}

// ------------------------------------------------------------- activations

void softmax(Lowering& b) {
  int64_t axis = b.intAttribute("axis", -1);
  if (b.knownRank(0) && b.rank(0) > 0)
    axis = b.axis(axis, b.rank(0));
  b.out(b.call(b.aten, {b.in(0), axis, none()}));
}

/// PyTorch's own, which is x above 20.
void softplus(Lowering& b) { b.out(b.call("softplus", {b.in(0), 1, 20})); }

void softsign(Lowering& b) {
  Value* scale = b.call("add", {b.call("abs", {b.in(0)}), 1});
  b.out(b.call("div", {b.in(0), scale}));
}

void gelu(Lowering& b) {
  std::string approximate = b.stringAttribute("approximate", "none");
  b.out(b.call("gelu", {b.in(0)}, {NamedValue("approximate", approximate)}));
}

/// Activations of ATen with one number, `alpha`.
void elu(Lowering& b) {
  b.out(b.call("elu", {b.in(0), b.floatAttribute("alpha", 1), 1, 1}));
}
void celu(Lowering& b) {
  b.out(b.call("celu", {b.in(0), b.floatAttribute("alpha", 1)}));
}
void selu(Lowering& b) {
  // The defaults, as PyTorch has them, to the last bit of float64.
  if (!b.hasAttribute("alpha") && !b.hasAttribute("gamma"))
    return b.out(b.call("selu", {b.in(0)}));
  b.out(b.call("elu", {b.in(0), b.floatAttribute("alpha", 1.6732632423543772),
                       b.floatAttribute("gamma", 1.0507009873554805), 1}));
}
void leakyRelu(Lowering& b) {
  b.out(b.call("leaky_relu", {b.in(0), b.floatAttribute("alpha", 0.01)}));
}
void thresholdedRelu(Lowering& b) {
  b.out(b.call("threshold", {b.in(0), b.floatAttribute("alpha", 1), 0}));
}

void hardSigmoid(Lowering& b) {
  double alpha = b.floatAttribute("alpha", 0.2);
  double beta = b.floatAttribute("beta", 0.5);
  if (std::abs(alpha - 1.0 / 6) < 1e-7 && beta == 0.5)
    return b.out(b.call("hardsigmoid", {b.in(0)}));
  Value* line = b.call("add", {b.call("mul", {b.in(0), alpha}), beta});
  b.out(b.call("clamp", {line, 0, 1}));
}

void swish(Lowering& b) {
  double alpha = b.floatAttribute("alpha", 1);
  if (alpha == 1)
    return b.out(b.call("silu", {b.in(0)}));
  Value* gate = b.call("sigmoid", {b.call("mul", {b.in(0), alpha})});
  b.out(b.call("mul", {b.in(0), gate}));
}

/// One slope, or one for each channel, is ATen's own; any other shape is not.
void prelu(Lowering& b) {
  const auto& slope = b.shape(1);
  int64_t rank = b.rank(0);
  int64_t channel = rank - int64_t(slope.size()); // dimension of slope[0]
  bool one = true, channels = rank >= 2 && channel <= 1;
  for (int64_t d = 0; d < int64_t(slope.size()); ++d) {
    one &= slope[size_t(d)] == 1;
    channels &= d + channel == 1 || slope[size_t(d)] == 1;
  }
  if (one || channels)
    return b.out(b.call(
        "prelu",
        {b.in(0), b.call("reshape", {b.in(1), at::IntArrayRef({-1}).vec()})}));
  Value* scaled = b.call("mul", {b.in(0), b.in(1)});
  b.out(b.call("where", {b.call("lt", {b.in(0), 0}), scaled, b.in(0)}));
}

void shrink(Lowering& b) {
  double lambd = b.floatAttribute("lambd", 0.5);
  double bias = b.floatAttribute("bias", 0);
  Value* x = b.in(0);
  Value* low = b.call("lt", {x, -lambd});
  Value* high = b.call("gt", {x, lambd});
  Value* zero = b.call("zeros_like", {x});
  Value* y = b.call("where", {high, b.call("sub", {x, bias}), zero});
  b.out(b.call("where", {low, b.call("add", {x, bias}), y}));
}

void hardmax(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", -1), b.rank(0));
  Value* most = b.call("argmax", {b.in(0), axis, true});
  Value* zeros = b.call("zeros_like", {b.in(0)});
  b.out(b.call("scatter", {zeros, axis, most, 1}));
}

} // namespace inv::opt::lower
