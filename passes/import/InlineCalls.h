// Private, inlined copies of a module's methods.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// A copy of the method's graph in which calls are inlined, all but those of
/// annotated modules: a submodule whose class has an `inverse` beside
/// `function` (calls of `function` stay) or `forward` (calls of `forward`
/// stay), and one whose path is in `invertible`. Inlined nodes carry a call
/// stack whose module instances are whole paths ("blocks.3.f"), so that a
/// remark can name them.
///
/// Throws Error for a path in `invertible` that the method does not call.
std::shared_ptr<torch::jit::Graph>
inlinedCopy(const torch::jit::Module& module, const std::string& method,
            const std::vector<std::string>& invertible);

/// The method of a class whose calls are kept: "function", "forward", or empty
/// for a class that is not annotated.
std::string annotatedMethod(const c10::ClassType& type);

} // namespace inv::opt
