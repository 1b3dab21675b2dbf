#include "passes/import/IrGraph.h"

#include "passes/support/Error.h"
#include "passes/support/Remarks.h"
#include "passes/support/StringUtil.h"
#include "passes/support/ValueText.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <sstream>
#include <unordered_map>

#include <fmt/format.h>
#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/runtime/operator.h>

namespace inv::opt {
namespace {

using namespace torch::jit;

/// `net.py:41:8` behind a node.
struct SourceComment {
  std::string file;
  size_t line = 0;
  size_t column = 0;
};

/// A graph's text as parseIR takes it, and what was taken out.
struct Prepared {
  std::string text;
  std::map<std::string, std::string> classTypes; ///< value name to type
  std::map<size_t, SourceComment> sources;       ///< by line, from 0
};

bool isNameCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
}

std::optional<SourceComment> parseSourceComment(std::string_view comment) {
  comment = trim(comment);
  size_t numbers[2] = {0, 0};
  for (int i = 1; i >= 0; --i) {
    size_t colon = comment.rfind(':');
    if (colon == std::string_view::npos)
      return std::nullopt;
    std::string digits(comment.substr(colon + 1));
    if (digits.empty() || digits.size() > 9 ||
        !std::all_of(digits.begin(), digits.end(),
                     [](unsigned char c) { return std::isdigit(c); }))
      return std::nullopt;
    numbers[i] = std::stoul(digits);
    comment = comment.substr(0, colon);
  }
  if (comment.empty())
    return std::nullopt;
  return SourceComment{std::string(comment), numbers[0], numbers[1]};
}

/// One line without its comment and with `Any` for class types.
std::string prepareLine(std::string_view line, size_t number, Prepared& out) {
  std::string result;
  bool inString = false;
  for (size_t i = 0; i < line.size();) {
    char c = line[i];
    if (inString) {
      result += line.substr(i, c == '\\' ? 2 : 1);
      inString = c != '"';
      i += c == '\\' ? 2 : 1;
      continue;
    }
    if (c == '#') {
      if (auto source = parseSourceComment(line.substr(i + 1)))
        out.sources[number] = *source;
      break;
    }
    inString = c == '"';
    result += c;
    ++i;
    if (c != '%')
      continue;
    size_t begin = i;
    while (i < line.size() && isNameCharacter(line[i]))
      result += line[i++];
    std::string name(line.substr(begin, i - begin));
    size_t colon = line.find_first_not_of(' ', i);
    if (colon == std::string_view::npos || line[colon] != ':')
      continue;
    Cursor cursor(line.substr(colon + 1), "");
    std::string type = cursor.until(",)=#");
    if (type.find("__torch__.") == std::string::npos)
      continue;
    out.classTypes[name] = type;
    result += " : Any ";
    i = line.find(type, colon) + type.size();
  }
  return result;
}

/// A node without results prints as `   = prim::Print(%x)`, one space too far
/// to the right for parseIR.
std::string withoutEmptyResult(const std::string& line) {
  size_t equals = line.find_first_not_of(' ');
  if (equals == std::string::npos || equals == 0 ||
      line.compare(equals, 2, "= ") != 0)
    return line;
  return line.substr(0, equals - 1) + line.substr(equals + 2);
}

Prepared prepare(const std::string& text) {
  Prepared out;
  std::istringstream stream(text);
  size_t number = 0;
  for (std::string line; std::getline(stream, line); ++number)
    out.text += prepareLine(withoutEmptyResult(line), number, out) + "\n";
  return out;
}

/// parseIR's errors quote the text around the place; the line is found again by
/// that quotation, which ends with a line of marks ("~~~ <--- HERE").
size_t lineOfError(const std::string& message, const std::string& text) {
  std::vector<std::string> quote;
  std::istringstream stream(message);
  for (std::string line; std::getline(stream, line);) {
    if (line.find("<--- HERE") != std::string::npos)
      break;
    quote.push_back(line);
  }
  std::vector<std::string> lines;
  std::istringstream source(text);
  for (std::string line; std::getline(source, line);)
    lines.push_back(line);
  // The longest tail of the quotation (at most 4 lines) that occurs.
  for (size_t count = std::min<size_t>(4, quote.size()); count > 0; --count) {
    auto it = std::search(lines.begin(), lines.end(), quote.end() - count,
                          quote.end());
    if (it != lines.end())
      return static_cast<size_t>(it - lines.begin()) + count - 1;
  }
  return 0;
}

class GraphReader {
public:
  GraphReader(const GraphText& text, const std::string& name,
              const c10::ClassTypePtr& self)
      : text_(text), name_(name), self_(self), prepared_(prepare(text.text)) {}

  std::shared_ptr<Graph> read() {
    parse();
    nameValues();
    setSelf();
    setClassTypes();
    finishBlock(graph_->block());
    lint();
    return graph_;
  }

private:
  [[noreturn]] void fail(size_t line, const std::string& message) const {
    throw Error(
        ExitCode::BadInput,
        fmt::format("{}:{}: {}", name_, text_.firstLine + line, message));
  }
  [[noreturn]] void fail(const Node* node, const std::string& message) const {
    const auto& range = lines_.at(node);
    fail(range, message);
  }

  void parse() {
    try {
      parseIR(prepared_.text, graph_.get(), values_);
    } catch (const std::exception& error) {
      std::string message = error.what();
      size_t line = lineOfError(message, prepared_.text);
      std::string_view first = trim(message);
      first = first.substr(0, first.find('\n'));
      if (!first.empty() && first.back() == ':')
        first.remove_suffix(1);
      fail(line, std::string(first));
    }
  }

  void nameValues() {
    for (const auto& [name, value] : values_)
      if (!std::all_of(name.begin(), name.end(),
                       [](unsigned char c) { return std::isdigit(c); }))
        value->setDebugName(name); // a number is no name
  }

  void setSelf() {
    auto isSelf = [](const std::string& name) {
      return name == "self" || name.rfind("self.", 0) == 0;
    };
    if (graph_->inputs().empty() || !isSelf(graph_->inputs()[0]->debugName()))
      graph_->insertInput(0, "self");
    auto declared = prepared_.classTypes.find(graph_->inputs()[0]->debugName());
    if (declared != prepared_.classTypes.end() &&
        declared->second != self_->str())
      fail(size_t{0},
           fmt::format("%self is of class {}, but the method is of {}",
                       declared->second, self_->str()));
    graph_->inputs()[0]->setType(self_);
  }

  void setClassTypes() {
    auto cu = self_->compilation_unit();
    for (const auto& [name, text] : prepared_.classTypes) {
      auto it = values_.find(name);
      if (it == values_.end() || it->second == graph_->inputs()[0])
        continue;
      Cursor cursor(text, fmt::format("{}:{}", name_, text_.firstLine));
      it->second->setType(
          parseType(cursor, text, [&](const std::string& className) {
            return cu->get_class(className);
          }));
    }
  }

  void finishBlock(Block* block) {
    for (Node* node : block->nodes()) {
      size_t line = node->sourceRange().source()->lineno_for_offset(
          node->sourceRange().start());
      lines_[node] = line;
      setSource(node, line);
      if (node->kind() == prim::GetAttr)
        setAttributeType(node);
      else if (node->kind() == prim::Constant)
        decodeConstant(node);
      for (Block* inner : node->blocks())
        finishBlock(inner);
      checkOperator(node);
    }
  }

  void setSource(Node* node, size_t line) {
    auto it = prepared_.sources.find(line);
    if (it == prepared_.sources.end()) {
      node->setSourceRange(SourceRange());
      return;
    }
    const SourceComment& comment = it->second;
    auto source = std::make_shared<Source>(std::string(comment.column + 1, ' '),
                                           comment.file, comment.line);
    node->setSourceRange(
        SourceRange(source, comment.column, comment.column + 1));
  }

  void setAttributeType(Node* node) {
    if (node->inputs().size() != 1 || !node->hasAttribute(attr::name))
      fail(node, "prim::GetAttr needs a name and one input");
    auto owner = node->input(0)->type()->cast<c10::ClassType>();
    if (!owner)
      fail(node, fmt::format("%{} is no module, so it has no attributes",
                             node->input(0)->debugName()));
    auto type = owner->findAttribute(node->s(attr::name));
    if (!type)
      fail(node, fmt::format("{} has no attribute '{}'", owner->str(),
                             node->s(attr::name)));
    node->output()->setType(type);
  }

  /// Constants that parseIR cannot read are printed as strings.
  void decodeConstant(Node* node) {
    if (!node->hasAttribute(attr::value) ||
        node->kindOf(attr::value) != AttributeKind::s)
      return;
    auto type = node->output()->type();
    if (type->kind() == c10::TypeKind::StringType ||
        type->kind() == c10::TypeKind::DeviceObjType)
      return;
    std::string text = node->s(attr::value);
    Cursor cursor(
        text, fmt::format("{}:{}", name_, text_.firstLine + lines_.at(node)));
    c10::IValue value = parseValue(cursor, type);
    cursor.expectEnd();
    node->removeAttribute(attr::value);
    if (value.isTensor())
      node->t_(attr::value, value.toTensor());
    else
      node->ival_(attr::value, value);
  }

  void checkOperator(Node* node) {
    Symbol kind = node->kind();
    if (node->maybeSchema() != nullptr || aliasAnalysisHasSpecialCaseFor(kind))
      return;
    if (getAllOperatorsFor(kind).empty())
      fail(node, fmt::format("unknown operator {}; name the library that has "
                             "it with --load-library=LIB.so",
                             kind.toQualString()));
    std::string types;
    for (const Value* input : node->inputs())
      types += (types.empty() ? "" : ", ") + input->type()->str();
    fail(node, fmt::format("no overload of {} takes ({})", kind.toQualString(),
                           types));
  }

  void lint() {
    try {
      graph_->lint();
    } catch (const std::exception& error) {
      std::string message = error.what();
      fail(size_t{0},
           "not a valid graph: " + message.substr(0, message.find('\n')));
    }
  }

  const GraphText& text_;
  std::string name_;
  c10::ClassTypePtr self_;
  Prepared prepared_;
  std::shared_ptr<Graph> graph_ = std::make_shared<Graph>();
  std::unordered_map<std::string, Value*> values_;
  std::unordered_map<const Node*, size_t> lines_;
};

} // namespace

std::shared_ptr<Graph> parseGraph(const GraphText& text,
                                  const std::string& name,
                                  const c10::ClassTypePtr& self) {
  return GraphReader(text, name, self).read();
}

} // namespace inv::opt
