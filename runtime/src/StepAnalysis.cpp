#include "StepAnalysis.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <array>
#include <optional>

namespace inv {
namespace {

namespace jit = torch::jit;

class Analyzer {
public:
  explicit Analyzer(const jit::Graph& graph) : graph_(graph) {
    facts_.arguments.resize(graph.inputs().size() - 1);
  }

  MethodFacts run() {
    visit(*graph_.block());
    return std::move(facts_);
  }

private:
  void visit(const jit::Block& block) {
    for (const jit::Node* n : block.nodes()) {
      visit(*n);
      for (const jit::Block* inner : n->blocks())
        visit(*inner);
    }
    for (const jit::Value* v : block.outputs())
      noteRead(v);
  }

  void visit(const jit::Node& n) {
    const c10::FunctionSchema* schema = n.maybeSchema();
    facts_.mayDraw = facts_.mayDraw || mayDraw(n, schema);
    const bool norm = n.kind() == c10::aten::batch_norm ||
                      n.kind() == c10::aten::instance_norm;
    constexpr size_t kMean = 3, kVar = 4, kTraining = 5;
    for (size_t i = 0; i < n.inputs().size(); i++) {
      if (norm && (i == kMean || i == kVar))
        noteStatistics(n.input(i), n.input(kTraining));
      else
        noteUse(n.input(i), schema && writes(*schema, i));
    }
  }

  static bool writes(const c10::FunctionSchema& schema, size_t i) {
    if (i >= schema.arguments().size())
      return false;
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    return alias && alias->isWrite();
  }

  static bool mayDraw(const jit::Node& n, const c10::FunctionSchema* schema) {
    if (n.kind() == c10::prim::CallMethod ||
        n.kind() == c10::prim::CallFunction || n.kind() == c10::prim::fork)
      return true;
    if (!schema || n.kind().is_prim())
      return false;
    // Recurrent networks drop out between their layers and have no tag.
    static const std::array recurrent = {c10::aten::lstm, c10::aten::gru,
                                         c10::aten::rnn_tanh,
                                         c10::aten::rnn_relu};
    if (!n.kind().is_aten() || std::find(recurrent.begin(), recurrent.end(),
                                         n.kind()) != recurrent.end())
      return true;
    const auto op = c10::Dispatcher::singleton().findOp(
        {schema->name(), schema->overload_name()});
    return op && op->hasTag(at::Tag::nondeterministic_seeded);
  }

  /// The argument's number if `v` is one.
  std::optional<size_t> argument(const jit::Value* v) const {
    if (v->node() != graph_.param_node() || v->offset() == 0)
      return std::nullopt;
    return v->offset() - 1;
  }

  void noteRead(const jit::Value* v) { noteUse(v, false); }

  void noteUse(const jit::Value* v, bool written) {
    if (const auto i = argument(v)) {
      facts_.arguments[*i].read = true;
      facts_.arguments[*i].written |= written;
    }
  }

  /// In training batch norm only writes its running statistics, in evaluation
  /// it only reads them.
  void noteStatistics(const jit::Value* v, const jit::Value* training) {
    const auto i = argument(v);
    if (!i)
      return;
    ArgumentFacts& facts = facts_.arguments[*i];
    if (const auto constant = jit::toIValue(training);
        constant && constant->isBool()) {
      (constant->toBool() ? facts.written : facts.read) = true;
      return;
    }
    facts.written = true;
    if (const auto flag = argument(training))
      facts.readUnless.push_back(*flag);
    else
      facts.read = true;
  }

  const jit::Graph& graph_;
  MethodFacts facts_;
};

} // namespace

MethodFacts analyzeMethod(jit::Function& method) {
  auto& function = jit::toGraphFunction(method);
  function.ensure_defined();
  return Analyzer(*function.optimized_graph()).run(); // inlined
}

} // namespace inv
