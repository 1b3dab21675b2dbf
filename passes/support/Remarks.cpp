#include "passes/support/Remarks.h"

#include "passes/support/CallStack.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/StringUtil.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <ostream>
#include <sstream>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {
namespace {

struct ReasonInfo {
  const char* id;
  const char* sentence;
  const char* suggestion;
};

constexpr ReasonInfo kReasons[] = {
#define REASON(name, id, sentence, suggestion) {id, sentence, suggestion},
#include "passes/support/Reasons.def"
#undef REASON
};

const ReasonInfo& info(Reason reason) {
  return kReasons[static_cast<size_t>(reason)];
}

/// A line of Python (or of an archive's own code) that made a node.
struct Line {
  std::string file;
  size_t line = 0;
  size_t column = 0;
};

std::string format(const Line& line) {
  std::string name = line.file.substr(line.file.find_last_of('/') + 1);
  return name + ":" + std::to_string(line.line) + ":" +
         std::to_string(line.column);
}

/// Whether a file belongs to PyTorch and not to the model.
bool isLibraryFile(const std::string& file) {
  constexpr std::array<std::string_view, 6> kParts = {
      "-packages/torch/", "torch/nn/",           "torch/_",
      "torch/jit/",       "torch/functional.py", "torch/utils/"};
  return file.empty() || file.front() == '<' ||
         std::any_of(kParts.begin(), kParts.end(), [&](std::string_view part) {
           return file.find(part) != std::string::npos;
         });
}

/// A traced node's source text is the Python stack, innermost frame first:
/// "/home/me/net.py(41): forward".
std::vector<Line> tracedStack(const std::string& text) {
  std::vector<Line> lines;
  std::istringstream stream(text);
  for (std::string frame; std::getline(stream, frame);) {
    size_t close = frame.find("): ");
    size_t open = frame.rfind('(', close);
    if (close == std::string::npos || open == std::string::npos)
      return {};
    std::string digits = frame.substr(open + 1, close - open - 1);
    if (digits.empty() || digits.size() > 9 ||
        !std::all_of(digits.begin(), digits.end(),
                     [](unsigned char c) { return std::isdigit(c); }))
      return {};
    lines.push_back({frame.substr(0, open), std::stoul(digits), 0});
  }
  return lines;
}

/// The lines that a source range stands for, innermost first.
std::vector<Line> linesOf(torch::jit::SourceRange range) {
  if (!range.source())
    return {};
  if (auto original = range.findSourceRangeThatGenerated())
    range = *original;
  auto lines = tracedStack(range.source()->text_str().str());
  if (!lines.empty())
    return lines;
  if (auto place = range.file_line_col()) {
    auto [file, line, column] = *place;
    if (!file.empty())
      return {{file, line, column}};
  }
  return {};
}

} // namespace

const char* reasonId(Reason reason) { return info(reason).id; }
const char* reasonSentence(Reason reason) { return info(reason).sentence; }
const char* reasonSuggestion(Reason reason) { return info(reason).suggestion; }

std::string sourceOf(const torch::jit::Node* node) {
  std::vector<torch::jit::SourceRange> ranges = {node->sourceRange()};
  if (auto stack = node->callstack()) {
    auto calls = (*stack)->vec(); // outermost first
    for (auto it = calls.rbegin(); it != calls.rend(); ++it)
      ranges.push_back(std::get<1>(*it));
  }
  std::optional<Line> fallback;
  for (const auto& range : ranges)
    for (const auto& line : linesOf(range)) {
      if (!isLibraryFile(line.file))
        return format(line);
      if (!fallback)
        fallback = line;
    }
  return fallback ? format(*fallback) : "";
}

std::string modulePathOf(const torch::jit::Node* node) {
  if (node->kind() == torch::jit::prim::CallMethod)
    if (const auto path =
            attributePath(const_cast<torch::jit::Value*>(node->input(0))))
      return *path; // the one that is called
  auto stack = node->callstack();
  if (!stack)
    return "";
  std::string path;
  for (auto call = stack; call; call = (*call)->callee()) {
    std::string module = calledModule(**call);
    if (!module.empty())
      path += (path.empty() ? "" : ".") + module;
  }
  return path;
}

std::string oneLine(const torch::jit::Node* node) {
  std::ostringstream text;
  node->print(text, 0, nullptr, /*print_source_locations=*/false,
              /*print_attributes=*/true, /*print_scopes=*/false,
              /*print_body=*/false);
  std::string line = text.str();
  return std::string(trim(line.substr(0, line.find('\n'))));
}

void Remarks::passed(const torch::jit::Node* at, std::string message) {
  add(RemarkKind::Passed, at, std::move(message), "", "");
}

void Remarks::analysis(const torch::jit::Node* at, std::string message) {
  add(RemarkKind::Analysis, at, std::move(message), "", "");
}

void Remarks::missed(const torch::jit::Node* at, Reason reason,
                     std::string detail) {
  std::string message = reasonSentence(reason);
  if (!detail.empty())
    message += " (" + std::move(detail) + ")";
  add(RemarkKind::Missed, at, std::move(message), reasonId(reason),
      reasonSuggestion(reason));
}

void Remarks::add(RemarkKind kind, const torch::jit::Node* at,
                  std::string message, std::string reason,
                  std::string suggestion) {
  Remark remark;
  remark.kind = kind;
  if (at != nullptr) {
    remark.module = modulePathOf(at);
    remark.source = sourceOf(at);
    remark.node = oneLine(at);
  }
  remark.message = std::move(message);
  remark.reason = std::move(reason);
  remark.suggestion = std::move(suggestion);
  add(std::move(remark));
}

void Remarks::kept(Remark remark, Reason reason, const std::string& amount) {
  remark.kind = RemarkKind::Analysis;
  remark.reason = reasonId(reason);
  remark.message =
      amount + " kept for backward: " + std::string(reasonSentence(reason));
  remark.suggestion = reasonSuggestion(reason);
  add(std::move(remark));
}

void Remarks::add(Remark remark) {
  remark.pass = pass_;
  remark.method = method_;
  std::string identity = std::to_string(int(remark.kind));
  for (const std::string* part :
       {&remark.pass, &remark.method, &remark.module, &remark.source,
        &remark.node, &remark.reason, &remark.message})
    identity += '\0' + *part;
  if (told_.insert(std::move(identity)).second)
    all_.push_back(std::move(remark));
}

void printRemark(std::ostream& out, const Remark& remark) {
  constexpr const char* kKinds[] = {"passed", "missed", "analysis"};
  out << (remark.source.empty() ? remark.method : remark.source) << ": "
      << kKinds[static_cast<size_t>(remark.kind)] << ": " << remark.message;
  if (!remark.reason.empty())
    out << " [" << remark.reason << "]";
  out << "\n";
  if (!remark.module.empty())
    out << "  module: " << remark.module << "\n";
  if (!remark.node.empty())
    out << "  node: " << remark.node << "\n";
  if (!remark.suggestion.empty())
    out << "  try: " << remark.suggestion << "\n";
}

} // namespace inv::opt
