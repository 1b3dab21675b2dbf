#include "passes/export/IrPrinter.h"

#include "inv/Abi.h"
#include "passes/import/InlineCalls.h"
#include "passes/support/Error.h"
#include "passes/support/TensorText.h"
#include "passes/support/ValueText.h"

#include <algorithm>
#include <map>
#include <ostream>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/inliner.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

std::string join(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

/// Replaces constants that parseIR cannot read by strings that the importer
/// decodes (by the constant's type).
void encodeConstants(Block* block) {
  for (Node* node : block->nodes()) {
    for (Block* inner : node->blocks())
      encodeConstants(inner);
    if (node->hasAttribute(attr::Subgraph))
      throw Error(ExitCode::BadInput,
                  fmt::format("{} has no text form (node: {})",
                              node->kind().toQualString(), oneLine(node)));
    if (node->kind() != prim::Constant || !node->hasAttribute(attr::value))
      continue;
    auto kind = node->kindOf(attr::value);
    IValue value;
    if (kind == AttributeKind::t)
      value = node->t(attr::value);
    else if (kind == AttributeKind::ival)
      value = node->ival(attr::value);
    else
      continue;
    auto text = valueText(value);
    if (!text)
      throw Error(
          ExitCode::BadInput,
          fmt::format("a constant has no text form (node: {})", oneLine(node)));
    node->removeAttribute(attr::value);
    node->s_(attr::value, *text);
    if (kind == AttributeKind::t)
      node->output()->setType(TensorType::get());
  }
}

/// Forgets source ranges without a file, which would print as `# :0:0`.
void dropEmptySources(Block* block) {
  for (Node* node : block->nodes()) {
    SourceRange range = node->sourceRange();
    if (auto original = range.findSourceRangeThatGenerated())
      range = *original;
    auto place = range.file_line_col();
    if (place && std::get<0>(*place).empty())
      node->setSourceRange(SourceRange());
    for (Block* inner : node->blocks())
      dropEmptySources(inner);
  }
}

class Printer {
public:
  Printer(std::ostream& out, const Model& model) : out_(out), model_(model) {}

  void print() {
    out_ << "# module " << model_.module.type()->str()
         << inlineAttributes(model_.module) << "\n";
    printMembers(model_.module, "");
    collectClasses();
    for (const auto& type : classes_)
      printClass(*type);
    for (const auto& type : classes_)
      for (const Function* method : type->methods())
        printGraph(join(type->str(), method->name()), *classGraph(*method));
    for (const auto& method : model_.methods)
      printGraph(method.name, *method.graph->copy());
  }

private:
  /// Attributes of simple types, behind the class's name.
  std::string inlineAttributes(const Module& module) {
    std::vector<std::string> parts;
    for (const auto& [name, value, type] : attributesOf(module)) {
      if (!isInline(*type))
        continue;
      auto text = valueText(value);
      bool isGuessed = type->kind() != c10::TypeKind::OptionalType;
      parts.push_back(
          isGuessed ? fmt::format("{} = {}", name, *text)
                    : fmt::format("{} : {} = {}", name, type->str(), *text));
    }
    return parts.empty() ? "" : fmt::format(" ({})", fmt::join(parts, ", "));
  }

  struct Attribute {
    std::string name;
    IValue value;
    TypePtr type;
  };

  /// All that are no modules. One that LibTorch gives every module and no graph
  /// reads is left out.
  std::vector<Attribute> attributesOf(const Module& module) {
    std::vector<Attribute> result;
    auto type = module.type();
    for (size_t slot = 0; slot < type->numAttributes(); ++slot) {
      const auto& name = type->getAttributeName(slot);
      if (type->getAttribute(slot)->is_module() ||
          name == "_is_full_backward_hook")
        continue;
      result.push_back(
          {name, module._ivalue()->getSlot(slot), type->getAttribute(slot)});
    }
    return result;
  }

  bool isInline(const c10::Type& type) {
    switch (type.kind()) {
    case c10::TypeKind::BoolType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::NoneType:
      return true;
    case c10::TypeKind::OptionalType:
      return isInline(*type.expectRef<c10::OptionalType>().getElementType());
    default:
      return false;
    }
  }

  void printMembers(const Module& module, const std::string& path) {
    auto type = module.type();
    for (const auto& [name, value, attributeType] : attributesOf(module)) {
      if (isInline(*attributeType))
        continue;
      std::string full = join(path, name);
      if (value.isTensor() && value.toTensor().defined() &&
          attributeType->kind() == c10::TypeKind::TensorType)
        printTensor(type, name, full, value.toTensor());
      else
        out_ << "#   attr " << full << " : " << attributeType->str() << " = "
             << valueText(value).value_or("unprintable") << "\n";
    }
    for (const auto& child : module.named_children()) {
      std::string full = join(path, child.name);
      out_ << "#   submodule " << full << " : " << child.value.type()->str()
           << inlineAttributes(child.value) << "\n";
      printMembers(child.value, full);
    }
  }

  void printTensor(const ClassTypePtr& type, const std::string& name,
                   const std::string& path, const at::Tensor& tensor) {
    bool isParameter = type->is_parameter(type->getAttributeSlot(name));
    const char* what = !isParameter             ? "buffer"
                       : tensor.requires_grad() ? "param"
                                                : "frozen";
    auto [it, first] = tensors_.emplace(tensor.unsafeGetTensorImpl(), path);
    out_ << "#   " << what << " " << path << " : "
         << (first ? tensorText(tensor)
                   : fmt::format("{} = same({})", tensorTypeText(tensor),
                                 it->second))
         << "\n";
  }

  /// The classes whose methods the text must have: steps, and modules that a
  /// printed graph calls.
  void collectClasses() {
    for (const auto& module : model_.module.modules())
      if (module.type()->str().rfind(abi::kClassPrefix, 0) == 0)
        addClass(module.type());
    for (const auto& method : model_.methods)
      collectCalls(*method.graph->block());
  }

  void collectCalls(const Block& block) {
    for (const Node* node : block.nodes()) {
      for (const Block* inner : node->blocks())
        collectCalls(*inner);
      if (node->kind() != prim::CallMethod)
        continue;
      auto type = node->input(0)->type()->cast<ClassType>();
      if (!type)
        throw Error(ExitCode::BadInput,
                    fmt::format("a call of an interface has no text form "
                                "(node: {})",
                                oneLine(node)));
      addClass(type);
    }
  }

  void addClass(const ClassTypePtr& type) {
    bool known =
        std::any_of(classes_.begin(), classes_.end(),
                    [&](const ClassTypePtr& other) { return *other == *type; });
    if (!known)
      classes_.push_back(type);
  }

  void printClass(const ClassType& type) {
    out_ << "# class " << type.str() << "\n";
    for (size_t i = 0; i < type.numConstants(); ++i) {
      IValue value = type.getConstant(i);
      out_ << "#   const " << type.getConstantName(i) << " : "
           << value.type()->str() << " = "
           << valueText(value).value_or("unprintable") << "\n";
    }
  }

  /// A class method with every call inlined, so that it stands alone.
  std::shared_ptr<Graph> classGraph(const Function& method) {
    auto* function =
        dynamic_cast<GraphFunction*>(const_cast<Function*>(&method));
    if (function == nullptr)
      throw Error(ExitCode::BadInput,
                  method.qualname().qualifiedName() + " has no graph");
    auto graph = function->graph()->copy();
    Inline(*graph);
    for (auto it = graph->nodes().begin(); it != graph->nodes().end();) {
      Node* node = *it++;
      if (node->kind() == prim::Constant && !node->hasUses() &&
          node->output()->type()->kind() == c10::TypeKind::FunctionType)
        node->destroy();
    }
    return graph->copy(); // numbers the values anew
  }

  void printGraph(const std::string& name, Graph& graph) {
    encodeConstants(graph.block());
    dropEmptySources(graph.block());
    out_ << "# method " << name << "\n" << graph.toString() << "\n";
  }

  std::ostream& out_;
  const Model& model_;
  std::vector<ClassTypePtr> classes_;
  std::map<const void*, std::string> tensors_;
};

} // namespace

void printIr(std::ostream& out, const Model& model) {
  Printer(out, model).print();
}

} // namespace inv::opt
