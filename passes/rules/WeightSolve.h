// What linear and convolution have in common: a weight matrix of full column
// rank that is undone by a solve. Internal to rules/.
#pragma once

#include "passes/rules/Rule.h"

#include <cstdint>
#include <optional>
#include <string>

namespace inv::opt {

/// Measured on the saved values of a weight.
struct WeightFacts {
  int64_t in = 0, out = 0;
  double condition = 0.0;
  std::optional<Reason> refused;
  std::string detail; ///< of the refusal
};

/// The saved values; nothing where they are not known.
std::optional<at::Tensor> savedValue(torch::jit::Value* weight,
                                     const RuleContext& context);

/// REQUIRES: `matrix` has two dimensions, [out, in], or three: one such matrix
/// after the other, of which the worst counts. Refuses out < in, rank
/// deficiency, a condition number above --max-condition, half precision.
WeightFacts lookAtMatrix(const at::Tensor& matrix, const RuleContext& context);

/// Appends the solution x of y = x matrixᵀ for all rows of y, whose leading
/// dimensions are one batch. `matrix` is [out, in], or [in, out] if not
/// `transposed`; `square` says that in = out.
torch::jit::Value* solveRows(torch::jit::Graph& graph, torch::jit::Value* y,
                             torch::jit::Value* matrix, bool transposed,
                             bool square);

/// Likewise for a matrix each of `groups` groups, [groups, out, in], of the
/// numbers that stand side by side in the last dimension of y.
torch::jit::Value* solveGroups(torch::jit::Graph& graph, torch::jit::Value* y,
                               torch::jit::Value* matrices, int64_t groups,
                               bool square);

} // namespace inv::opt
