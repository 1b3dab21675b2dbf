// What several families of lowerings share.
#pragma once

#include "passes/import/onnx/Lowering.h"

#include <optional>
#include <vector>

namespace inv::opt::lower {

using torch::jit::NamedValue;
using torch::jit::Value;
using Arguments = Lowering::Arguments;

/// The result is operand 0.
void identity(Lowering& b);

/// None, as an argument.
inline c10::IValue none() { return {}; }

/// Operand `i` as a number, where it is a constant of one element that does not
/// change what the operator gives for operand `other` beside its value.
std::optional<c10::IValue> scalar(Lowering& b, size_t i, size_t other);

/// Axes that are an attribute up to some opset and input `i` from then on;
/// nothing where there are none.
std::optional<std::vector<int64_t>> axesOf(Lowering& b, size_t i);

/// `x` with `before` and `after` elements of `value` at each end of dimension
/// `dim` of `rank`.
Value* padAxis(Lowering& b, Value* x, int64_t rank, int64_t dim,
               const Number& before, const Number& after,
               const c10::IValue& value);

/// `x` from `start` to `end` along `dim`.
Value* sliceAxis(Lowering& b, Value* x, int64_t dim, const Number& start,
                 const Number& end);

/// 0, 1, ... n - 1 of `dtype`, on the device of `like`.
Value* arange(Lowering& b, const Number& n, at::ScalarType dtype, Value* like);

/// A 1-D tensor, with size 1 in every dimension of `rank` but `dim`.
Value* along(Lowering& b, Value* vector, int64_t rank, int64_t dim);

} // namespace inv::opt::lower
