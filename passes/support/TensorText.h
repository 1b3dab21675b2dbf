// Tensors as text: `f32[8, 4] = randn(seed=1)` (docs/formats.md).
#pragma once

#include "passes/support/Cursor.h"

#include <functional>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace inv::opt {

/// Most elements that a tensor is printed with; a larger one is `elided`.
inline constexpr int64_t kMaxPrintedElements = 64;

/// Resolves the `same(path)` initialiser.
using TensorLookup = std::function<at::Tensor(const std::string& path)>;

/// Reads `DTYPE[SIZES]` and, where one follows, `= INITIALISER`. Without one
/// (and for `elided`) the values are drawn from a normal distribution seeded
/// with `seed`; those of an integer or bool tensor are zeros.
at::Tensor parseTensor(Cursor& cursor, uint64_t seed,
                       const TensorLookup& lookup = nullptr);
/// `f32[8, 4]`
std::string tensorTypeText(const at::Tensor& tensor);
/// What parseTensor reads back: to the bit for at most kMaxPrintedElements.
std::string tensorText(const at::Tensor& tensor);
/// A seed for a name, the same in every run and on every machine.
uint64_t seedOf(std::string_view name);

} // namespace inv::opt
