// How an operator's result and derivative depend on the last bits of what it
// takes: what a state that is rebuilt to rounding may do to it.
#pragma once

#include <optional>
#include <vector>

namespace torch::jit {
struct Node;
}

namespace inv {

enum class Continuity {
  /// Reads sizes and the like; no value depends on the input's values.
  Ignores,
  /// Puts elements elsewhere, unchanged.
  Moves,
  /// The result and its derivatives are continuous.
  Smooth,
  /// Continuous but for some values of an element, such as ReLU's 0: there a
  /// rounding error decides which side's derivative is taken.
  Kinked,
  /// A rounding error may give another result (a comparison, a sort), or the
  /// derivative to another element (a maximum). Operators that we do not know
  /// are here as well.
  Chooses,
};

/// REQUIRES: `n` is no prim:: node. In-place forms are like the others.
Continuity continuityOf(const torch::jit::Node& n);

/// Where a Kinked operator has its kinks; nothing if that is known only when it
/// runs.
std::optional<std::vector<double>> kinksOf(const torch::jit::Node& n);

/// The number that a node's input is, if it is constant.
std::optional<double> constantNumber(const torch::jit::Node& n, size_t input);

} // namespace inv
