#include "passes/support/CallStack.h"

#include <string_view>

namespace inv::opt {

using torch::jit::InlinedCallStack;
using torch::jit::InlinedCallStackPtr;

namespace {
constexpr std::string_view kPrefix = "module:";
}

InlinedCallStackPtr pushCall(const InlinedCallStackPtr& stack,
                             torch::jit::Function* function,
                             const torch::jit::SourceRange& range,
                             const std::string& path) {
  std::string name = std::string(kPrefix) + path;
  if (stack)
    return c10::make_intrusive<InlinedCallStack>(stack, function, range,
                                                 std::nullopt, name);
  return c10::make_intrusive<InlinedCallStack>(function, range, std::nullopt,
                                               name);
}

std::string calledModule(const InlinedCallStack& stack) {
  const std::string& name = stack.function_name();
  if (name.compare(0, kPrefix.size(), kPrefix) != 0)
    return "";
  return name.substr(kPrefix.size());
}

} // namespace inv::opt
