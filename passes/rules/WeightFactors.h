// Weights that are built in the graph: P @ L @ U, matrix_exp(A - A.t()), the Q
// of a factorization. What the construction shows makes the solve cheaper and
// more accurate: triangular systems, and transposes of orthogonal matrices.
// Internal to rules/.
#pragma once

#include "passes/rules/Rule.h"

#include <vector>

namespace inv::opt {

/// A square factor of a weight.
struct MatrixFactor {
  enum class Shape { General, Lower, Upper, Orthogonal };
  torch::jit::Value* value = nullptr;
  Shape shape = Shape::General;
  /// The factor is valueᵀ; `shape` is that of the factor.
  bool transposed = false;
  /// The shape was read off a buffer's saved values: a permutation, a mask. The
  /// step looks again.
  std::vector<torch::jit::Value*> toCheck;
};

/// The weight (`transposed`: its transpose) as a product of such factors, first
/// factor first; none where the construction does not show the shape of each.
/// REQUIRES: the saved weight is a square matrix.
std::vector<MatrixFactor> factorsOf(torch::jit::Value* weight, bool transposed,
                                    const RuleContext& context);

/// Appends the solution x of y = x Wᵀ, W the product of the factors, for all
/// rows of y, in float64; `operand` gives the factors' values.
torch::jit::Value* solveFactors(
    torch::jit::Graph& graph, torch::jit::Value* y,
    const std::vector<MatrixFactor>& factors,
    const std::function<torch::jit::Value*(torch::jit::Value*)>& operand);

/// A tensor that is 0 where a buffer has lost the shape that it was saved with;
/// null where there is nothing to look at.
torch::jit::Value* checkFactors(
    torch::jit::Graph& graph, const std::vector<MatrixFactor>& factors,
    const std::function<torch::jit::Value*(torch::jit::Value*)>& operand);

} // namespace inv::opt
