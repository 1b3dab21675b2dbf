// What a pass says about what it did and did not do, in LLVM's vocabulary.
#pragma once

#include <iosfwd>
#include <string>
#include <unordered_set>
#include <vector>

namespace torch::jit {
struct Node;
}

namespace inv::opt {

/// Why something was not rewritten; the closed list of Reasons.def.
enum class Reason {
#define REASON(name, id, sentence, suggestion) name,
#include "passes/support/Reasons.def"
#undef REASON
};

const char* reasonId(Reason);
const char* reasonSentence(Reason);
const char* reasonSuggestion(Reason);

enum class RemarkKind {
  Passed,  ///< a step was made
  Missed,  ///< a candidate was refused, with a Reason
  Analysis ///< something worth knowing
};

struct Remark {
  RemarkKind kind = RemarkKind::Analysis;
  std::string pass;       ///< the pass that says it, e.g. "form-steps"
  std::string method;     ///< method of the model, e.g. "forward"
  std::string module;     ///< path of the submodule ("blocks.3.f"), or empty
  std::string source;     ///< "net.py:41:8", or empty where the model has none
  std::string node;       ///< the node as printed, one line, or empty
  std::string reason;     ///< reasonId(), or empty
  std::string message;    ///< one sentence
  std::string suggestion; ///< what the user can do, or empty
};

/// Collects remarks in the order in which they are made; drops exact repeats.
class Remarks {
public:
  void setPass(std::string pass) { pass_ = std::move(pass); }
  void setMethod(std::string method) { method_ = std::move(method); }

  void passed(const torch::jit::Node* at, std::string message);
  void analysis(const torch::jit::Node* at, std::string message);
  /// `detail`, where given, is appended to the reason's sentence in
  /// parentheses.
  void missed(const torch::jit::Node* at, Reason reason,
              std::string detail = "");

  /// Something that stays kept for backward; pass, method, sentence and
  /// suggestion are filled in. `amount` is such as "1,024 bytes".
  void kept(Remark remark, Reason reason, const std::string& amount);

  const std::vector<Remark>& all() const { return all_; }

private:
  void add(Remark remark);
  void add(RemarkKind kind, const torch::jit::Node* at, std::string message,
           std::string reason, std::string suggestion);
  std::string pass_, method_;
  std::vector<Remark> all_;
  std::unordered_set<std::string> told_; ///< all that tells two apart
};

/// "net.py:41:8" of a node, the innermost line of the model's own source; empty
/// where unknown.
std::string sourceOf(const torch::jit::Node*);
/// Path of the submodule that a node was inlined from ("blocks.3.f"), or empty.
std::string modulePathOf(const torch::jit::Node*);
/// The node on one line, without its blocks.
std::string oneLine(const torch::jit::Node*);

/// For people: `net.py:41:8: missed: ... [reason-id]`.
void printRemark(std::ostream&, const Remark&);

} // namespace inv::opt
