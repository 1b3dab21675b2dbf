#include "passes/import/onnx/OnnxModule.h"

#include <algorithm>
#include <cctype>
#include <set>

#include <fmt/format.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool isWord(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/// Names that the archive's Python has for itself.
bool isReserved(const std::string& name) {
  static const std::set<std::string> kWords = {
      "False",     "None",         "True",  "and",     "as",
      "assert",    "async",        "await", "break",   "class",
      "continue",  "def",          "del",   "elif",    "else",
      "except",    "finally",      "for",   "from",    "global",
      "if",        "import",       "in",    "is",      "lambda",
      "nonlocal",  "not",          "or",    "pass",    "raise",
      "return",    "try",          "while", "with",    "yield",
      "self",      "torch",        "ops",   "forward", "training",
      "CONSTANTS", "uninitialized"};
  return kWords.count(name) > 0 || name.rfind("__", 0) == 0;
}

/// The parts of a path between dots.
std::vector<std::string> partsOf(const std::string& path) {
  std::vector<std::string> parts{""};
  for (char c : path) {
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

std::string joined(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

} // namespace

std::string attributeNameOf(const std::string& name) {
  std::string out;
  for (char c : name)
    out += isWord(c) ? c : '_';
  if (out.empty() || isReserved(out))
    out += '_';
  return out;
}

std::string valueNameOf(const std::string& name) {
  std::string out = attributeNameOf(name);
  size_t first = out.find_first_not_of('_');
  if (first != std::string::npos)
    out = out.substr(first);
  if (out.empty() || std::isdigit(static_cast<unsigned char>(out[0])) != 0)
    out = "v" + out;
  return isReserved(out) ? out + "_" : out;
}

OnnxModule::OnnxModule(const std::string& name)
    : cu_(std::make_shared<CompilationUnit>()),
      root_(c10::QualifiedName("__torch__." + valueNameOf(name)), cu_),
      graph_(std::make_shared<Graph>()) {
  root_.register_attribute("training", c10::BoolType::get(), true);
  Value* self = graph_->addInput("self");
  self->setType(root_.type());
  branches_.emplace("", Branch{root_, self, {}});
}

OnnxModule::Branch& OnnxModule::child(const std::string& path,
                                      const std::string& name) {
  Branch& parent = branches_.at(path);
  auto known = parent.children.find(name);
  if (known != parent.children.end())
    return branches_.at(joined(path, known->second));
  std::string own = attributeNameOf(name);
  while (parent.module.hasattr(own))
    own += '_';
  std::string full = joined(path, own);
  std::string suffix = full;
  std::replace(suffix.begin(), suffix.end(), '.', '_');
  c10::QualifiedName base(*root_.type()->name());
  Module module(c10::QualifiedName(base.qualifiedName() + "_" + suffix), cu_,
                /*shouldMangle=*/true);
  module.register_attribute("training", c10::BoolType::get(), true);
  parent.module.register_module(own, module);
  parent.children.emplace(name, own);
  return branches_.emplace(full, Branch{module, nullptr, {}}).first->second;
}

std::string OnnxModule::add(const std::string& initializer,
                            const at::Tensor& value, bool isParameter) {
  auto parts = partsOf(initializer);
  std::string path;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    child(path, parts[i]);
    path = joined(path, branches_.at(path).children.at(parts[i]));
  }
  Module& owner = branches_.at(path).module;
  std::string name = attributeNameOf(parts.back());
  while (owner.hasattr(name))
    name += '_';
  bool trains =
      isParameter && (value.is_floating_point() || value.is_complex());
  at::Tensor own = value;
  own.set_requires_grad(trains);
  owner.register_parameter(name, own, /*is_buffer=*/!isParameter);
  return paths_[initializer] = joined(path, name);
}

void OnnxModule::offer(const std::string& initializer,
                       const at::Tensor& value) {
  offered_[initializer] = value;
}

Value* OnnxModule::attribute(Value* object, const std::string& name) {
  auto type = object->type()->expect<c10::ClassType>()->getAttribute(name);
  Node* node = graph_->createGetAttr(object, name);
  node->output()->setType(type);
  return graph_->insertNode(node)->output();
}

Value* OnnxModule::valueOf(const std::string& path) {
  Branch& branch = branches_.at(path);
  if (branch.value == nullptr) {
    size_t dot = path.rfind('.');
    bool top = dot == std::string::npos;
    branch.value = attribute(valueOf(top ? "" : path.substr(0, dot)),
                             top ? path : path.substr(dot + 1));
  }
  return branch.value;
}

Value* OnnxModule::read(const std::string& initializer) {
  auto known = reads_.find(initializer);
  if (known != reads_.end())
    return known->second;
  auto path = paths_.find(initializer);
  if (path == paths_.end()) {
    add(initializer, offered_.at(initializer), /*isParameter=*/false);
    path = paths_.find(initializer);
  }
  size_t dot = path->second.rfind('.');
  bool top = dot == std::string::npos;
  Value* object = valueOf(top ? "" : path->second.substr(0, dot));
  Value* tensor =
      attribute(object, top ? path->second : path->second.substr(dot + 1));
  return reads_[initializer] = tensor;
}

Value* OnnxModule::training() {
  if (training_ == nullptr)
    training_ = attribute(valueOf(""), "training");
  return training_;
}

} // namespace inv::opt
