// What must hold for a method's graph between any two passes.
#include "passes/Passes.h"

#include "inv/Abi.h"
#include "passes/support/Error.h"
#include "passes/support/Symbols.h"

#include <fmt/format.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

class Verifier {
public:
  Verifier(const Model& model, const Method& method, const std::string& when)
      : model_(model), method_(method), when_(when) {}

  void run() {
    try {
      method_.graph->lint();
    } catch (const std::exception& error) {
      std::string message = error.what();
      fail(nullptr, message.substr(0, message.find('\n')));
    }
    checkInputs();
    checkBlock(method_.graph->block());
  }

private:
  [[noreturn]] void fail(const Node* node, const std::string& message) {
    std::string place;
    if (node != nullptr) {
      std::string source = sourceOf(node);
      place = fmt::format(" (node: {}{})", oneLine(node),
                          source.empty() ? "" : ", " + source);
    }
    throw Error(ExitCode::CheckFailed,
                fmt::format("verification of '{}' failed {}: {}{}",
                            method_.name, when_, message, place));
  }

  void checkInputs() {
    const Function* function = model_.module.type()->findMethod(method_.name);
    if (function == nullptr)
      fail(nullptr, "the module has no such method");
    if (function->num_inputs() != method_.graph->inputs().size())
      fail(nullptr,
           fmt::format("the graph has {} inputs, the method has {}",
                       method_.graph->inputs().size(), function->num_inputs()));
    if (method_.graph->inputs().empty() ||
        *method_.graph->inputs()[0]->type() != *model_.module.type())
      fail(nullptr, "the first input is not the module");
  }

  void checkBlock(const Block* block) {
    for (const Node* node : block->nodes()) {
      if (node->kind() == prim::GetAttr || node->kind() == prim::SetAttr)
        checkAttribute(node);
      else if (sym::isStep(node->kind()))
        checkStep(node);
      for (const Block* inner : node->blocks())
        checkBlock(inner);
    }
  }

  void checkAttribute(const Node* node) {
    auto type = node->input(0)->type()->cast<ClassType>();
    if (!type)
      return; // an attribute of an object that is no class of ours
    auto attribute = type->findAttribute(node->s(attr::name));
    if (!attribute)
      fail(node, fmt::format("{} has no attribute '{}'", type->str(),
                             node->s(attr::name)));
    if (node->kind() == prim::GetAttr &&
        !attribute->isSubtypeOf(*node->output()->type()))
      fail(node, fmt::format("the attribute is of type {}", attribute->str()));
  }

  void checkStep(const Node* node) {
    auto type = node->input(0)->type()->cast<ClassType>();
    if (!type)
      fail(node, "a step's first operand must be a module");
    auto need = [&](const char* method) {
      if (type->findMethod(method) == nullptr)
        fail(node, fmt::format("{} has no method '{}'", type->str(), method));
    };
    if (node->kind() != sym::bijection())
      need(abi::kConditioner);
    if (node->kind() != sym::checkpoint()) {
      need(abi::kFunction);
      need(abi::kInverse);
    }
    for (const char* name : {abi::kMode, abi::kPreserveRng, abi::kOrigin})
      if (!type->findAttribute(name))
        fail(node, fmt::format("{} has no attribute '{}'", type->str(), name));
  }

  const Model& model_;
  const Method& method_;
  const std::string& when_;
};

} // namespace

void verify(const Model& model, const Method& method, const std::string& when) {
  Verifier(model, method, when).run();
}

} // namespace inv::opt
