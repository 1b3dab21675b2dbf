// Selective inlining.
//
// LibTorch's own Inline() takes every call; a module that the user annotated
// with an `inverse` must stay one node, or the annotation is lost. It also
// records only the last component of a module's path. So calls are inlined
// here, innermost first (the call stack of a node grows outwards):
//
//   %block : __torch__.Block = prim::GetAttr[name="3"](%blocks)
//   %y : Tensor = prim::CallMethod[name="forward"](%block, %x)
//
// becomes the nodes of Block.forward, each with the call stack entry
// (Block.forward, this line, "blocks.3").
//
// Left alone: calls of interfaces and of functions without a graph, the bodies
// of prim::fork (they run apart, and no pass looks into them), and the methods
// of steps, which are reached through operators.
#include "passes/import/InlineCalls.h"

#include "inv/Abi.h"
#include "passes/support/CallStack.h"
#include "passes/support/Error.h"
#include "passes/support/Remarks.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/inliner.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// Path of a module value relative to the graph's self ("" for self itself);
/// nothing when it is no chain of attribute reads.
std::optional<std::string> relativePath(const Value* module) {
  std::string path;
  while (module->node()->kind() == prim::GetAttr) {
    const std::string& name = module->node()->s(attr::name);
    path = path.empty() ? name : fmt::format("{}.{}", name, path);
    module = module->node()->input(0);
  }
  const Graph* graph = module->owningGraph();
  if (graph->inputs().empty() || module != graph->inputs()[0])
    return std::nullopt;
  return path;
}

std::string join(const std::string& prefix, const std::string& path) {
  return prefix.empty() || path.empty() ? prefix + path : prefix + "." + path;
}

class Inliner {
public:
  explicit Inliner(const std::vector<std::string>& invertible)
      : invertible_(invertible) {}

  /// The inlined graph of a function whose self lies at `path`. Graphs are
  /// shared between calls, so a caller copies from it.
  std::shared_ptr<Graph> graphOf(GraphFunction& function,
                                 const std::string& path) {
    // A path decides only where it leads to a module the user named.
    bool named = std::any_of(
        invertible_.begin(), invertible_.end(), [&](const std::string& other) {
          return path.empty() || other.rfind(path + ".", 0) == 0;
        });
    auto key = std::make_pair(&function, named ? path : std::string());
    auto it = cache_.find(key);
    if (it != cache_.end())
      return it->second;
    if (!active_.insert(&function).second)
      throw Error(ExitCode::BadInput,
                  "'" + function.qualname().qualifiedName() + "' calls itself");
    auto graph = function.graph()->copy();
    inlineBlock(graph->block(), path);
    active_.erase(&function);
    cache_.emplace(key, graph);
    return graph;
  }

  const std::set<std::string>& kept() const { return kept_; }

private:
  using GrownStacks = std::map<InlinedCallStack*, InlinedCallStackPtr>;

  void inlineBlock(Block* block, const std::string& path) {
    for (auto it = block->nodes().begin(); it != block->nodes().end();) {
      Node* node = *it++;
      for (Block* inner : node->blocks())
        inlineBlock(inner, path);
      if (node->kind() == prim::CallMethod)
        inlineMethod(node, path);
      else if (node->kind() == prim::CallFunction)
        inlineFunction(node, path);
    }
  }

  void inlineMethod(Node* call, const std::string& path) {
    auto relative = relativePath(call->input(0));
    auto type = call->input(0)->type()->cast<ClassType>();
    if (!type)
      return; // an interface: which class it is, only the run can tell
    const std::string& name = call->s(attr::name);
    Function* callee = type->findMethod(name);
    if (callee == nullptr)
      throw Error(ExitCode::BadInput,
                  fmt::format("{}: class {} has no method '{}'", oneLine(call),
                              type->str(), name));
    std::string full = join(path, relative.value_or(""));
    bool named = relative && std::find(invertible_.begin(), invertible_.end(),
                                       full) != invertible_.end();
    std::string annotated = annotatedMethod(*type);
    // The model itself is never a step: there is nobody outside to call it.
    if (!full.empty() &&
        name == (named && annotated.empty() ? "forward" : annotated)) {
      kept_.insert(full);
      return;
    }
    auto* function = dynamic_cast<GraphFunction*>(callee);
    if (function == nullptr)
      return;
    auto graph = graphOf(*function, full);
    replace(call, *function, *graph, call->inputs(), relative.value_or(""));
  }

  void inlineFunction(Node* call, const std::string& path) {
    GraphFunction* function = tryToGraphFunction(call);
    if (function == nullptr)
      return;
    Node* constant = call->input(0)->node();
    auto graph = graphOf(*function, path);
    replace(call, *function, *graph, call->inputs().slice(1), "");
    if (!constant->hasUses())
      constant->destroy();
  }

  void replace(Node* call, GraphFunction& function, Graph& callee,
               at::ArrayRef<Value*> inputs, const std::string& modulePath) {
    Node* before = call->prev();
    WithInsertPoint guard(call);
    auto outputs = insertGraph(*call->owningGraph(), callee, inputs);
    GrownStacks grown;
    for (Node* node = before->next(); node != call; node = node->next())
      growStack(node, function, call->sourceRange(), modulePath, grown);
    TORCH_INTERNAL_ASSERT(outputs.size() == call->outputs().size());
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i]->hasDebugName() && call->output(i)->hasDebugName() &&
          outputs[i]->node()->kind() != prim::Constant)
        outputs[i]->copyMetadata(call->output(i));
      call->output(i)->replaceAllUsesWith(outputs[i]);
    }
    call->destroy();
  }

  /// Puts the call in front of the stacks of a node and of those in its blocks.
  void growStack(Node* node, GraphFunction& function, const SourceRange& range,
                 const std::string& modulePath, GrownStacks& grown) {
    auto old = node->callstack();
    InlinedCallStackPtr& stack = grown[old ? old->get() : nullptr];
    if (!stack)
      stack = pushCall(old.value_or(InlinedCallStackPtr()), &function, range,
                       modulePath);
    node->setCallStack(stack);
    for (Block* block : node->blocks())
      for (Node* inner : block->nodes())
        growStack(inner, function, range, modulePath, grown);
  }

  const std::vector<std::string>& invertible_;
  std::map<std::pair<GraphFunction*, std::string>, std::shared_ptr<Graph>>
      cache_;
  std::set<GraphFunction*> active_;
  std::set<std::string> kept_;
};

} // namespace

std::string annotatedMethod(const c10::ClassType& type) {
  if (!type.is_module() || type.findMethod("inverse") == nullptr ||
      type.str().rfind(abi::kClassPrefix, 0) == 0)
    return "";
  for (const char* name : {"function", "forward"})
    if (type.findMethod(name) != nullptr)
      return name;
  return "";
}

std::shared_ptr<Graph> inlinedCopy(const Module& module,
                                   const std::string& method,
                                   const std::vector<std::string>& invertible) {
  auto* function =
      dynamic_cast<GraphFunction*>(module.type()->findMethod(method));
  if (function == nullptr)
    throw Error(ExitCode::BadInput, "the model has no method '" + method + "'");
  Inliner inliner(invertible);
  auto graph = inliner.graphOf(*function, "")->copy();
  for (const auto& path : invertible)
    if (inliner.kept().count(path) == 0)
      throw Error(ExitCode::BadInput,
                  fmt::format("--invertible={}: '{}' does not call a submodule "
                              "of that path",
                              path, method));
  return graph;
}

} // namespace inv::opt
