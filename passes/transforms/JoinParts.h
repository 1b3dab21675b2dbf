// Code that puts a value together from its parts, in a step's inverse.
#pragma once

#include "passes/analysis/Elements.h"

#include <functional>
#include <vector>

namespace torch::jit {
struct Graph;
struct Value;
} // namespace torch::jit

namespace inv::opt {

/// `value` holds the elements that `elements` names: these alone if they are
/// compact, else among others, which may be anything.
struct Part {
  Elements elements;
  torch::jit::Value* value = nullptr;
};

/// The graph that is written (at its insertion point), and what it may read of
/// the model's.
struct PartAccess {
  torch::jit::Graph& graph;
  std::function<torch::jit::Value*(torch::jit::Value*)> operand;
  std::function<torch::jit::Value*()> sizes;
  std::function<torch::jit::Value*(int64_t dim)> size;
};

/// Whether the parts are all of the value.
bool partsCover(const std::vector<Part>& parts);

/// A tensor of all elements, of which those that no part names may be anything.
/// REQUIRES: all are masks, or none is.
torch::jit::Value* joinParts(const std::vector<Part>& parts,
                             const PartAccess& access);

/// Whether only the run can tell that the elements are what they were taken
/// for: a mask that is an attribute, indices that imply a size.
bool needsCheck(const Elements& elements);

/// A tensor of one element that is 0 where the parts do not cover the value or
/// a mask holds other numbers than 0 and 1 (buffers may be set to others); null
/// where there is nothing to check.
torch::jit::Value* checkParts(const std::vector<Part>& parts,
                              const PartAccess& access);

} // namespace inv::opt
