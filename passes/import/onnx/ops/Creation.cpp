// Tensors that are made from nothing: constants, ranges, random numbers.
//
// Random numbers come from PyTorch's generator; a `seed` in the file is not
// looked at, so that every step draws others.
#include "passes/import/onnx/ops/Support.h"

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>

namespace inv::opt::lower {

void constant(Lowering& b) {
  at::Tensor value;
  if (const auto* a = b.attribute("value"))
    value = a->t;
  else if (const auto* a = b.attribute("value_float"))
    value = at::scalar_tensor(a->f, at::kFloat);
  else if (const auto* a = b.attribute("value_int"))
    value = at::scalar_tensor(a->i, at::kLong);
  else if (const auto* a = b.attribute("value_floats"))
    value = at::tensor(a->floats, at::kFloat);
  else if (const auto* a = b.attribute("value_ints"))
    value = at::tensor(a->ints, at::kLong);
  if (!value.defined())
    b.refuse("holds no tensor of numbers");
  b.outputs[0].constant = value;
}

void constantOfShape(Lowering& b) {
  c10::IValue fill(0.0);
  at::ScalarType dtype = at::kFloat;
  if (const auto* a = b.attribute("value")) {
    if (!a->t.defined() || a->t.numel() != 1)
      b.refuse("is filled with no single number");
    at::Scalar number = a->t.item();
    dtype = a->t.scalar_type();
    fill = number.isFloatingPoint() ? c10::IValue(number.toDouble())
                                    : c10::IValue(number.toLong());
  }
  b.out(b.call("full", {b.list(b.numbers(0)), fill},
               {NamedValue("dtype", int64_t(dtype))}));
}

void range(Lowering& b) {
  Arguments ends;
  for (size_t i = 0; i < 3; ++i)
    if (b.operand(i).numbers)
      ends.emplace_back(b.value(b.numbers(i).at(0)));
    else
      ends.emplace_back(b.call(b.isFloat(i) ? "Float" : "Int", {b.in(i)}));
  b.out(b.call("arange", ends, {NamedValue("dtype", int64_t(b.dtype(0)))}));
}

void eyeLike(Lowering& b) {
  if (b.rank(0) != 2)
    b.refuse("is made like a matrix");
  auto dtype = b.outputs[0].type.dtype;
  if (dtype == at::ScalarType::Undefined)
    dtype = b.dtype(0);
  Value* x = b.in(0);
  Value* row = along(b, arange(b, b.size(0, 0), at::kLong, x), 2, 0);
  Value* column = arange(b, b.size(0, 1), at::kLong, x);
  Value* at = b.call("add", {row, b.intAttribute("k", 0)});
  b.out(b.cast(b.call("eq", {at, column}), dtype));
}

namespace {

at::ScalarType dtypeOf(Lowering& b) {
  auto dtype = b.outputs[0].type.dtype;
  return dtype == at::ScalarType::Undefined ? at::kFloat : dtype;
}

/// Numbers of `op` (rand, randn) in the sizes of the attribute or the operand.
Value* drawn(Lowering& b, const std::string& op) {
  NamedValue dtype("dtype", int64_t(dtypeOf(b)));
  if (b.has(0))
    return b.call((op + "_like").c_str(), {b.in(0)}, {dtype});
  return b.call(op.c_str(), {b.intsAttribute("shape")}, {dtype});
}

} // namespace

void randomNormal(Lowering& b) {
  Value* x = b.call("mul", {drawn(b, "randn"), b.floatAttribute("scale", 1)});
  b.out(b.call("add", {x, b.floatAttribute("mean", 0)}));
}

void randomUniform(Lowering& b) {
  double low = b.floatAttribute("low", 0), high = b.floatAttribute("high", 1);
  Value* x = b.call("mul", {drawn(b, "rand"), high - low});
  b.out(b.call("add", {x, low}));
}

void bernoulli(Lowering& b) {
  Value* x = b.call("bernoulli", {b.in(0)});
  auto dtype = dtypeOf(b);
  b.out(dtype == b.dtype(0) ? x : b.cast(x, dtype));
}

/// The operand holds logarithms of what is proportional to probabilities.
void multinomial(Lowering& b) {
  Value* p = b.call("softmax", {b.in(0), -1, none()});
  Value* x = b.call("multinomial", {p, b.intAttribute("sample_size", 1), true});
  auto dtype = b.outputs[0].type.dtype;
  b.out(dtype == at::kLong ? x : b.cast(x, dtype));
}

} // namespace inv::opt::lower
