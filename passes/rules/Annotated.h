// Shared by the rule for annotated modules and the outliner of their steps.
#pragma once

#include <memory>

namespace torch::jit {
struct Function;
struct Graph;
} // namespace torch::jit

namespace inv::opt {

/// A private copy of a method's graph with every call inlined.
std::shared_ptr<torch::jit::Graph>
inlinedMethod(const torch::jit::Function& method);

} // namespace inv::opt
