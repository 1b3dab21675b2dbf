#include "StepAnalysis.h"

#include "TieSearch.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <algorithm>
#include <array>
#include <unordered_set>

namespace inv {
namespace {

namespace jit = torch::jit;

/// A tensor, or an object or container with one. (A step inside of the step is
/// an object without.)
bool mayHoldTensors(const c10::TypePtr& type) {
  if (type->isSubtypeOf(*c10::TensorType::get()) ||
      type->kind() == c10::TypeKind::AnyType)
    return true;
  if (const auto object = type->cast<c10::ClassType>())
    return std::any_of(
        object->getAttributes().begin(), object->getAttributes().end(),
        [](const auto& a) { return mayHoldTensors(a.getType()); });
  return std::any_of(type->containedTypes().begin(),
                     type->containedTypes().end(), mayHoldTensors);
}

class Analyzer {
public:
  explicit Analyzer(const jit::Graph& graph) : graph_(graph) {
    facts_.arguments.resize(graph.inputs().size() - 1);
    for (size_t i = 0; i < facts_.arguments.size(); i++)
      aliases_.push_back({graph.inputs()[i + 1]});
  }

  MethodFacts run() {
    findAliases();
    visit(*graph_.block());
    for (size_t i = 0; i < facts_.arguments.size(); i++)
      searchTies(graph_, i, facts_.arguments[i]);
    return std::move(facts_);
  }

private:
  /// Values that may share memory with argument i are in aliases_[i].
  void findAliases() {
    for (auto& values : aliases_) {
      size_t before = 0;
      while (before != values.size()) {
        before = values.size();
        findAliases(*graph_.block(), values);
      }
    }
  }

  using Values = std::unordered_set<const jit::Value*>;

  static void findAliases(const jit::Block& block, Values& values) {
    const auto holds = [&](const jit::Value* v) {
      return values.count(v) != 0;
    };
    for (const jit::Node* n : block.nodes()) {
      for (const jit::Block* inner : n->blocks())
        findAliases(*inner, values);
      const c10::FunctionSchema* schema = n->maybeSchema();
      bool shares = false;
      for (size_t i = 0; i < n->inputs().size(); i++)
        shares =
            shares || (holds(n->input(i)) && mayReturnArgument(*n, schema, i));
      for (const jit::Block* inner : n->blocks())
        shares = shares || std::any_of(inner->outputs().begin(),
                                       inner->outputs().end(), holds);
      if (!shares)
        continue;
      values.insert(n->outputs().begin(), n->outputs().end());
      for (const jit::Block* inner : n->blocks())
        values.insert(inner->inputs().begin(), inner->inputs().end());
    }
  }

  void visit(const jit::Block& block) {
    for (const jit::Node* n : block.nodes()) {
      visit(*n);
      for (const jit::Block* inner : n->blocks())
        visit(*inner);
    }
    for (const jit::Value* v : block.outputs())
      noteUse(v, false);
  }

  void visit(const jit::Node& n) {
    const c10::FunctionSchema* schema = n.maybeSchema();
    facts_.mayDraw = facts_.mayDraw || mayDraw(n, schema);
    facts_.forks = facts_.forks || n.kind() == c10::prim::fork ||
                   n.kind() == c10::Symbol::prim("awaitable");
    noteAttribute(n);
    const bool norm = n.kind() == c10::aten::batch_norm ||
                      n.kind() == c10::aten::instance_norm;
    constexpr size_t kMean = 3, kVar = 4, kTraining = 5;
    for (size_t i = 0; i < n.inputs().size(); i++) {
      if (norm && (i == kMean || i == kVar))
        noteStatistics(n.input(i), n.input(kTraining));
      else
        noteUse(n.input(i), schema && writesArgument(*schema, i));
    }
  }

  void noteAttribute(const jit::Node& n) {
    const bool reads =
        n.kind() == c10::prim::GetAttr && mayHoldTensors(n.output()->type());
    const bool writesOne = n.kind() == c10::prim::SetAttr;
    if ((reads || writesOne) && n.input(0) == graph_.inputs()[0])
      facts_.attribute = n.s(c10::attr::name);
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

  void noteUse(const jit::Value* v, bool written) {
    for (size_t i = 0; i < aliases_.size(); i++)
      if (aliases_[i].count(v) != 0) {
        facts_.arguments[i].read = true;
        facts_.arguments[i].written |= written;
      }
  }

  /// The argument's number if `v` is one.
  std::optional<size_t> argument(const jit::Value* v) const {
    if (v->node() != graph_.param_node() || v->offset() == 0)
      return std::nullopt;
    return v->offset() - 1;
  }

  /// In training batch norm only writes its running statistics, in evaluation
  /// it only reads them.
  void noteStatistics(const jit::Value* v, const jit::Value* training) {
    const auto i = argument(v);
    if (!i)
      return noteUse(v, true);
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
  std::vector<Values> aliases_;
};

} // namespace

bool mayReturnArgument(const jit::Node& n, const c10::FunctionSchema* schema,
                       size_t i) {
  if (n.kind().is_prim() || !schema)
    return true;
  // They return their input where there is nothing to drop, which their schemas
  // do not say.
  static const std::array dropouts = {
      c10::aten::dropout, c10::Symbol::aten("feature_dropout"),
      c10::Symbol::aten("alpha_dropout"),
      c10::Symbol::aten("feature_alpha_dropout")};
  if (std::find(dropouts.begin(), dropouts.end(), n.kind()) != dropouts.end())
    return true;
  return i < schema->arguments().size() &&
         schema->arguments()[i].alias_info() != nullptr;
}

bool writesArgument(const c10::FunctionSchema& schema, size_t i) {
  if (i >= schema.arguments().size())
    return false;
  const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
  return alias && alias->isWrite();
}

MethodFacts analyzeMethod(jit::Function& method) {
  auto& function = jit::toGraphFunction(method);
  function.ensure_defined();
  // What functions the code calls is looked into as well.
  const std::shared_ptr<jit::Graph> graph = function.graph()->copy();
  jit::Inline(*graph);
  return Analyzer(*graph).run();
}

} // namespace inv
