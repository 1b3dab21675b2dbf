// Which values of a state matter to the last bit, and to what.
#pragma once

#include "StepAnalysis.h"

namespace torch::jit {
struct Graph;
}

namespace inv {

/// Follows what depends on argument `i` of a method (without self) through its
/// graph, inlined, and notes the choices and kinks that it reaches.
void searchTies(const torch::jit::Graph& graph, size_t i, ArgumentFacts& facts);

} // namespace inv
