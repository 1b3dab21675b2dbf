#include "passes/import/IrModule.h"

#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"
#include "passes/support/TensorText.h"
#include "passes/support/ValueText.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

namespace inv::opt {
namespace {

constexpr const char* kDefaultClass = "__torch__.Module";

/// An attribute that is no submodule.
struct Member {
  std::string name;
  c10::TypePtr type;
  c10::IValue value;
  bool isParameter = false;
  bool isBuffer = false;
};

/// A declared module, before it is an object.
struct Child;
struct Node {
  std::string className; ///< empty: made up from the path
  std::vector<Member> members;
  std::vector<Child> children;
};
struct Child {
  std::string name;
  Node node;
};

class Builder {
public:
  Builder(const IrUnit& unit, const std::string& name)
      : unit_(unit), name_(name),
        cu_(std::make_shared<torch::jit::CompilationUnit>()) {}

  torch::jit::Module build() {
    root_.className = kDefaultClass;
    declareClasses();
    for (const auto& declaration : unit_.declarations) {
      Cursor cursor(declaration.text,
                    fmt::format("{}:{}", name_, declaration.line));
      read(cursor);
    }
    return torch::jit::Module(instantiate(root_, ""));
  }

private:
  /// All class names come into being first, so that types may name them.
  void declareClasses() {
    for (const auto& declaration : unit_.declarations) {
      Cursor cursor(declaration.text,
                    fmt::format("{}:{}", name_, declaration.line));
      std::string what = cursor.word("a declaration");
      if (what == "submodule") {
        cursor.word("a path");
        cursor.expect(":");
      } else if (what != "module" && what != "class") {
        continue;
      }
      std::string name = cursor.word("a class name");
      if (name.rfind("__torch__.", 0) != 0)
        cursor.fail("a class name starts with '__torch__.'");
      classNamed(name);
      if (what == "module")
        root_.className = name;
    }
  }

  c10::ClassTypePtr classNamed(const std::string& name) {
    if (auto type = cu_->get_class(name))
      return type;
    auto type = c10::ClassType::create(name, cu_, /*is_module=*/true);
    cu_->register_type(type);
    return type;
  }

  c10::TypePtr typeNamed(Cursor& cursor, const std::string& text) {
    return parseType(cursor, text, [this](const std::string& name) {
      return cu_->get_class(name);
    });
  }

  void read(Cursor& cursor) {
    std::string what = cursor.word("a declaration");
    if (what == "module") {
      cursor.word("a class name");
      openClass_ = root_.className;
      readInlineAttributes(cursor, root_);
    } else if (what == "class") {
      openClass_ = cursor.word("a class name");
    } else if (what == "const") {
      readConstant(cursor);
    } else if (what == "submodule") {
      Node& node = nodeAt(cursor.word("a path"));
      cursor.expect(":");
      node.className = cursor.word("a class name");
      readInlineAttributes(cursor, node);
    } else if (what == "attr") {
      readAttribute(cursor);
    } else {
      readTensor(cursor, what);
    }
    cursor.expectEnd();
  }

  /// `(training = true, axis : int? = none)`
  void readInlineAttributes(Cursor& cursor, Node& node) {
    if (!cursor.eat("("))
      return;
    for (bool first = true; !cursor.eat(")"); first = false) {
      if (!first)
        cursor.expect(",");
      Member member;
      member.name = cursor.word("a name");
      if (cursor.eat(":"))
        member.type = typeNamed(cursor, cursor.until("="));
      cursor.expect("=");
      if (!member.type)
        member.type = guessType(cursor);
      member.value = parseValue(cursor, member.type);
      addMember(cursor, node, std::move(member));
    }
  }

  void readConstant(Cursor& cursor) {
    if (openClass_.empty())
      cursor.fail("a constant outside a class");
    std::string name = cursor.word("a name");
    cursor.expect(":");
    auto type = typeNamed(cursor, cursor.until("="));
    cursor.expect("=");
    auto value = parseValue(cursor, type);
    auto owner = classNamed(openClass_);
    if (owner->hasConstant(name))
      cursor.fail("'" + name + "' is declared twice");
    owner->addConstant(name, value);
  }

  void readAttribute(Cursor& cursor) {
    auto [node, name] = splitPath(cursor.word("a path"));
    Member member;
    member.name = name;
    cursor.expect(":");
    member.type = typeNamed(cursor, cursor.until("="));
    cursor.expect("=");
    if (cursor.eat("unprintable"))
      cursor.fail("'" + name + "' had no text form, so it cannot be read back");
    member.value = parseValue(cursor, member.type);
    addMember(cursor, *node, std::move(member));
  }

  void readTensor(Cursor& cursor, const std::string& what) {
    std::string path = cursor.word("a path");
    auto [node, name] = splitPath(path);
    cursor.expect(":");
    at::Tensor tensor =
        parseTensor(cursor, seedOf(path), [this](const std::string& other) {
          auto it = tensors_.find(other);
          return it == tensors_.end() ? at::Tensor() : it->second;
        });
    tensors_[path] = tensor;
    Member member;
    member.name = name;
    member.type = c10::TensorType::get();
    member.isParameter = what != "buffer";
    member.isBuffer = what == "buffer";
    if (what == "param") {
      if (!tensor.is_floating_point() && !tensor.is_complex())
        cursor.fail("a parameter of an integer dtype has no gradient: call it "
                    "'frozen' or 'buffer'");
      tensor.set_requires_grad(true);
    }
    member.value = tensor;
    addMember(cursor, *node, std::move(member));
  }

  void addMember(Cursor& cursor, Node& node, Member member) {
    for (const auto& other : node.members)
      if (other.name == member.name)
        cursor.fail("'" + member.name + "' is declared twice");
    node.members.push_back(std::move(member));
  }

  Node& nodeAt(const std::string& path) {
    Node* node = &root_;
    for (const auto& part : splitList(path, '.')) {
      auto it = std::find_if(node->children.begin(), node->children.end(),
                             [&](auto& child) { return child.name == part; });
      if (it == node->children.end())
        it = node->children.insert(it, {part, Node{}});
      node = &it->node;
    }
    return *node;
  }

  std::pair<Node*, std::string> splitPath(const std::string& path) {
    size_t dot = path.rfind('.');
    if (dot == std::string::npos)
      return {&root_, path};
    return {&nodeAt(path.substr(0, dot)), path.substr(dot + 1)};
  }

  torch::jit::ModulePtr instantiate(Node& node, const std::string& path) {
    if (node.className.empty()) {
      std::string suffix = path;
      std::replace(suffix.begin(), suffix.end(), '.', '_');
      node.className = root_.className + "_" + suffix;
    }
    auto members = node.members;
    for (auto& [name, child] : node.children) {
      auto object = instantiate(
          child, path.empty() ? name : fmt::format("{}.{}", path, name));
      members.push_back({name, object->type(), object});
    }
    auto type = classNamed(node.className);
    if (defined_.insert({node.className, path}).second)
      for (const auto& member : members)
        type->addAttribute(member.name, member.type, member.isParameter,
                           member.isBuffer);
    auto object = c10::ivalue::Object::create(c10::StrongTypePtr(cu_, type),
                                              type->numAttributes());
    if (members.size() != type->numAttributes())
      mismatch(node, path);
    for (const auto& member : members) {
      auto slot = type->findAttributeSlot(member.name);
      if (!slot || *type->getAttribute(*slot) != *member.type)
        mismatch(node, path);
      object->setSlot(*slot, member.value);
    }
    return object;
  }

  [[noreturn]] void mismatch(const Node& node, const std::string& path) {
    throw Error(ExitCode::BadInput,
                fmt::format("{}: '{}' and '{}' are both of class {}, but have "
                            "different attributes",
                            name_, defined_.at(node.className), path,
                            node.className));
  }

  const IrUnit& unit_;
  std::string name_;
  std::shared_ptr<torch::jit::CompilationUnit> cu_;
  Node root_;
  std::string openClass_;
  std::map<std::string, at::Tensor> tensors_;
  std::map<std::string, std::string> defined_; ///< class to its first path
};

} // namespace

torch::jit::Module buildModule(const IrUnit& unit, const std::string& name) {
  return Builder(unit, name).build();
}

} // namespace inv::opt
