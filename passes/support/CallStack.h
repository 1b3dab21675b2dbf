// Paths of modules in the call stacks of inlined nodes.
//
// LibTorch's own record (ModuleInstanceInfo) holds only the last component of a
// path, and its constructor is not exported. So the importer writes whole paths
// ("blocks.3.f", relative to the caller's self) where LibTorch keeps the name
// of the function for the mobile runtime.
#pragma once

#include <string>

#include <torch/csrc/jit/ir/scope.h>

namespace inv::opt {

/// A call stack that says: the code of `stack` (null: the code of a function
/// itself) was called in `function` at `range`, on the submodule `path` (empty:
/// on the same module, or a free function).
torch::jit::InlinedCallStackPtr
pushCall(const torch::jit::InlinedCallStackPtr& stack,
         torch::jit::Function* function, const torch::jit::SourceRange& range,
         const std::string& path);

/// The path that pushCall was given for the outermost call of the stack.
std::string calledModule(const torch::jit::InlinedCallStack& stack);

} // namespace inv::opt
