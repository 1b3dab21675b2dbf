#include "passes/import/IrText.h"

#include "passes/import/InlineCalls.h"
#include "passes/import/IrGraph.h"
#include "passes/import/IrModule.h"
#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"

#include <algorithm>
#include <set>
#include <sstream>

#include <fmt/format.h>

namespace inv::opt {
namespace {

using torch::jit::Graph;

[[noreturn]] void failAt(const std::string& name, size_t line,
                         const std::string& message) {
  throw Error(ExitCode::BadInput,
              fmt::format("{}:{}: {}", name, line, message));
}

bool isSeparator(std::string_view line) {
  return line == "// -----" || line == "# -----";
}

/// The declaration in a comment line, or nothing: `# module ...` with one space
/// opens something, `#   param ...` with more belongs to what was opened.
std::string_view declarationIn(std::string_view line) {
  std::string_view body = line.substr(1);
  if (body.empty() || body.front() != ' ')
    return {};
  bool member = body.size() > 1 && body[1] == ' ';
  body = trim(body);
  std::string_view word = body.substr(0, body.find(' '));
  static const std::set<std::string_view> openers = {"module", "class",
                                                     "method"};
  static const std::set<std::string_view> members = {
      "param", "frozen", "buffer", "attr", "const", "submodule"};
  if (word.size() == body.size())
    return {};
  return (member ? members : openers).count(word) ? body : std::string_view();
}

/// Counts brackets outside strings and comments.
int bracketBalance(std::string_view line) {
  int depth = 0;
  bool inString = false;
  for (size_t i = 0; i < line.size(); ++i) {
    char c = line[i];
    if (inString) {
      i += c == '\\';
      inString = c != '"';
      continue;
    }
    if (c == '#')
      break;
    inString = c == '"';
    depth += (c == '(') - (c == ')');
  }
  return depth;
}

/// Reads a text line by line.
class Splitter {
public:
  explicit Splitter(std::string name) : name_(std::move(name)) {}

  void line(const std::string& text) {
    ++number_;
    if (inGraph_)
      inGraphLine(text);
    else
      outsideLine(text);
  }

  std::vector<IrUnit> finish() {
    if (inGraph_)
      failAt(name_, unit_.graphs.back().firstLine,
             "the graph has no return statement");
    closeUnit();
    if (units_.empty())
      throw Error(ExitCode::BadInput, name_ + ": no graph in this text");
    return std::move(units_);
  }

private:
  void inGraphLine(const std::string& text) {
    std::string_view body = trim(text);
    if (isSeparator(body))
      failAt(name_, number_,
             "a separator inside a graph (no return statement)");
    unit_.graphs.back().text += text + "\n";
    inReturn_ |= body.rfind("return", 0) == 0;
    // Only the return statement's own brackets: those of a line with a syntax
    // error are parseIR's to complain about.
    if (inReturn_)
      depth_ += bracketBalance(text);
    if (inReturn_ && depth_ <= 0)
      inGraph_ = false;
  }

  void outsideLine(const std::string& text) {
    std::string_view body = trim(text);
    if (isSeparator(body)) {
      closeUnit();
    } else if (!body.empty() && body.front() == '#') {
      std::string_view declaration = declarationIn(body);
      if (declaration.rfind("method ", 0) == 0)
        openMethod(std::string(trim(declaration.substr(7))));
      else if (!declaration.empty())
        unit_.declarations.push_back({std::string(declaration), number_});
    } else if (body.rfind("graph", 0) == 0) {
      openGraph(text);
    } else if (!body.empty() && body.rfind("//", 0) != 0) {
      failAt(name_, number_,
             unit_.graphs.empty()
                 ? "expected a graph, a declaration or a comment"
                 : "text after the end of the graph");
    }
  }

  void openMethod(const std::string& method) {
    if (!method_.empty())
      failAt(name_, number_, "the method '" + method_ + "' has no graph");
    method_ = method;
  }

  void openGraph(const std::string& text) {
    if (method_.empty() && !unit_.graphs.empty())
      failAt(name_, number_,
             "a second graph: put a line '# method NAME' or '// -----' "
             "before it");
    GraphText graph;
    graph.method = method_.empty() ? "forward" : method_;
    graph.firstLine = number_;
    for (const auto& other : unit_.graphs)
      if (other.method == graph.method)
        failAt(name_, number_, "'" + graph.method + "' is defined twice");
    unit_.graphs.push_back(std::move(graph));
    method_.clear();
    inGraph_ = true;
    inReturn_ = false;
    depth_ = 0;
    inGraphLine(text);
  }

  void closeUnit() {
    if (!method_.empty())
      failAt(name_, number_, "the method '" + method_ + "' has no graph");
    if (unit_.graphs.empty() && !unit_.declarations.empty())
      failAt(name_, unit_.declarations.front().line,
             "a module without a graph");
    if (!unit_.graphs.empty())
      units_.push_back(std::move(unit_));
    unit_ = {};
  }

  std::string name_;
  std::vector<IrUnit> units_;
  IrUnit unit_;
  std::string method_;
  size_t number_ = 0;
  int depth_ = 0;
  bool inGraph_ = false;
  bool inReturn_ = false;
};

bool isClassMethod(const std::string& method) {
  return method.rfind("__torch__.", 0) == 0;
}

/// Parses a graph and makes it a method of the class.
void defineMethod(const c10::ClassTypePtr& type, const std::string& method,
                  const GraphText& text, const std::string& name) {
  auto graph = parseGraph(text, name, type);
  auto* function = type->compilation_unit()->create_function(
      c10::QualifiedName(*type->name(), method), graph);
  type->addMethod(function);
}

Model parseUnit(const IrUnit& unit, const std::string& name,
                const ImportOptions& options) {
  Model model;
  model.module = buildModule(unit, name);
  auto cu = model.module.type()->compilation_unit();
  for (const auto& graph : unit.graphs) {
    if (!isClassMethod(graph.method)) {
      defineMethod(model.module.type(), graph.method, graph, name);
      continue;
    }
    size_t dot = graph.method.rfind('.');
    auto type = cu->get_class(graph.method.substr(0, dot));
    if (!type)
      failAt(name, graph.firstLine,
             "class '" + graph.method.substr(0, dot) + "' is not declared");
    defineMethod(type, graph.method.substr(dot + 1), graph, name);
  }
  for (const auto& graph : unit.graphs) {
    const auto& chosen = options.methods;
    if (isClassMethod(graph.method) ||
        (!chosen.empty() &&
         std::find(chosen.begin(), chosen.end(), graph.method) == chosen.end()))
      continue;
    Method method;
    method.name = graph.method;
    method.graph = inlinedCopy(model.module, graph.method, options.invertible);
    model.methods.push_back(std::move(method));
  }
  if (model.methods.empty())
    throw Error(
        ExitCode::BadInput,
        name + ": no method '" +
            (options.methods.empty() ? "forward" : options.methods.front()) +
            "'");
  return model;
}

} // namespace

std::vector<IrUnit> splitIrText(const std::string& text,
                                const std::string& name) {
  Splitter splitter(name);
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    splitter.line(line);
  return splitter.finish();
}

std::vector<Model> parseIrText(const std::string& text, const std::string& name,
                               const ImportOptions& options) {
  std::vector<Model> models;
  for (const auto& unit : splitIrText(text, name))
    models.push_back(parseUnit(unit, name, options));
  return models;
}

} // namespace inv::opt
