// form-steps: outlines what the analysis found into invertible-checkpoint
// steps.
//
// What. The analysis (passes/analysis) says which values that backward reads
// can be rebuilt, by which derivations, and which of these pay. Derivations
// that share a conditioner become one step: its nodes leave the method for a
// TorchScript class of their own (conditioner, function, inverse), and the
// method calls the step through an operator of the runtime:
//
//   before                       after
//     %h = linear(%x2, %w, %b)     %step = GetAttr["inv_step_0"](%self)
//     %f = tanh(%h)                %s = inv::coupling(%step, [%x1], [%x2],
//     %y1 = add(%x1, %f, 1)                           [%w, %b], None)
//     ...  %x2 ...                 %y1, %x2p = ListUnpack(%s)
//                                  ...  %x2p ...  (in later steps)
//
// Why it is sound. The step computes the same operators on the same values in
// the same order, so the forward result does not change by a bit. Everything
// the methods read is handed in. A rebuilt value is read by steps only: a plain
// operator keeps its own tensors. Side effects stay in the method; random
// operators keep their order. Where shapes and dtypes are not known (loaded
// graphs carry none) the step checks at run time, and keeps its input where the
// check fails.
//
// Ifs and loops. What lies in the network of a step stays in it. In all others
// each block is rewritten in place, as a method is (BlockPlan): the steps of
// one iteration hand over to those of the next, since the runtime finds the
// step that made a state from the tensor itself.
//
// What it leaves alone. Nodes whose derivations do not pay (see the remarks),
// steps that cannot be brought together without changing the order of effects,
// methods that already hold steps for the same nodes (those are single
// operators to the analysis).
#include "passes/Passes.h"
#include "passes/analysis/Accounting.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/StringUtil.h"
#include "passes/support/Symbols.h"
#include "passes/transforms/BlockPlan.h"
#include "passes/transforms/InstallSteps.h"
#include "passes/transforms/SinkViews.h"

#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <fmt/format.h>

#include <optional>

namespace inv::opt {

using namespace torch::jit;

namespace {

class Former {
public:
  explicit Former(PassContext& context)
      : context_(context), facts_(context), plan_(facts_) {}

  bool run() {
    forEachPlan(plan_, [&](const BlockPlan& plan) { report(plan); });
    if (context_.options.analyze)
      addUp();
    if (!plan_.hasSteps())
      return false;
    installSteps(plan_, context_);
    EliminateDeadCode(context_.method.graph);
    return true;
  }

private:
  /// Storages that the step's nodes would have kept and that nobody keeps now.
  static std::vector<ValueId> droppedBy(const StepDraft& d,
                                        const BlockPlan& plan) {
    const Dataflow& flow = plan.flow();
    std::set<ValueId> mine;
    for (NodeId n : d.owned)
      for (ValueId v : flow.node(n).saved)
        mine.insert(flow.storage(v));
    std::vector<ValueId> out;
    for (ValueId v : plan.found.dropped)
      if (mine.count(v))
        out.push_back(v);
    return out;
  }

  /// Before anything is rewritten.
  void addUp() const {
    std::vector<AccountedBlock> blocks;
    forEachPlan(plan_, [&](const BlockPlan& plan) {
      AccountedBlock block{
          plan.rules(), {}, plan.schedule.order, plan.refusals()};
      for (const StepDraft& d : plan.drafts)
        block.steps.push_back(
            {nameOf(d.form), d.owned, d.xs, d.ys, d.zs, d.captures});
      blocks.push_back(std::move(block));
    });
    auto sums = std::make_shared<Accounting>(
        account(context_, facts_, blocks, plan_.leaving()));
    for (const KeptRow& row : sums->kept) {
      Remark remark;
      remark.module = row.module;
      remark.source = row.source;
      remark.node = row.node;
      context_.remarks.kept(std::move(remark), row.reason,
                            fmt::format("{} {}", withSeparators(row.amount),
                                        sums->inBytes ? "bytes" : "values"));
    }
    context_.method.accounting = std::move(sums);
  }

  static std::string rulesOf(const StepDraft& d) {
    std::string out;
    for (const Derivation& derivation : d.derivations)
      if (out.find(derivation.rule) == std::string::npos)
        out += (out.empty() ? "" : "+") + derivation.rule;
    return out;
  }

  void report(const BlockPlan& plan) {
    const Dataflow& flow = plan.flow();
    std::set<ValueId> counted;
    for (const StepDraft& d : plan.drafts) {
      const Node* at =
          flow.node(d.stream.empty() ? d.owned.back() : d.stream.back()).node;
      StepReport step;
      step.kind = nameOf(d.form);
      step.module = modulePathOf(at);
      step.source = sourceOf(at);
      step.valuesDropped = 0;
      step.bytesDropped = flow.shapesKnown() ? 0 : -1;
      for (NodeId n : d.owned)
        if (const int64_t own = flow.node(n).savedOwn; own > 0) {
          ++step.valuesDropped;
          if (flow.shapesKnown())
            step.bytesDropped += own;
        }
      for (ValueId v : droppedBy(d, plan))
        if (counted.insert(v).second) {
          ++step.valuesDropped;
          if (flow.shapesKnown())
            step.bytesDropped += flow.weight(v);
        }
      context_.remarks.passed(
          at, fmt::format("{} step by rule {}: {} no longer kept", step.kind,
                          rulesOf(d),
                          flow.shapesKnown()
                              ? fmt::format("{} bytes", step.bytesDropped)
                              : fmt::format("{} values", step.valuesDropped)));
      context_.method.steps.push_back(std::move(step));
    }
    std::vector<Refusal> refusals = plan.refusals();
    std::stable_sort(refusals.begin(), refusals.end(),
                     [&](const Refusal& a, const Refusal& b) {
                       return flow.node(a.node).position <
                              flow.node(b.node).position;
                     });
    for (const Refusal& r : refusals)
      context_.remarks.missed(flow.node(r.node).node, r.reason, r.detail);
    for (const NodeInfo& n : flow.nodes())
      if (!n.savedKnown && !n.saved.empty() &&
          unknown_.insert(n.node->kind()).second)
        context_.remarks.analysis(
            n.node, fmt::format("{} is not in the table of what derivatives "
                                "keep: taken to keep all its inputs and "
                                "outputs",
                                n.node->kind().toQualString()));
  }

  PassContext& context_;
  MethodFacts facts_;
  BlockPlan plan_;
  std::set<Symbol> unknown_; ///< operators that were told of
};

} // namespace

namespace {

/// What a method may hold that leaves nothing to rewrite in it.
struct Obstacle {
  Node* node;
  const char* why;
};

std::optional<Obstacle> findObstacle(Graph& graph) {
  static const Symbol grad = Symbol::fromQualString("aten::grad");
  static const Symbol backward = Symbol::fromQualString("aten::backward");
  static const Symbol seed = Symbol::fromQualString("aten::manual_seed");
  for (Node* n : allNodes(graph.block())) {
    // What it returns would follow from rebuilt values, and differ from the
    // original's by rounding.
    if (n->kind() == grad || n->kind() == backward)
      return Obstacle{n, "the method asks for gradients itself, and its result "
                         "would change by rounding: nothing is rewritten"};
    // Nodes compute in the mode, or with the numbers, of their place, and must
    // not be brought to the other side of such a one. (A `with` block's end is
    // a prim::Exit.)
    if (n->kind() == prim::Enter || n->kind() == sym::setGradEnabled() ||
        n->kind() == seed)
      return Obstacle{n,
                      "the method changes a mode for what follows, as a "
                      "'with' block of torch.no_grad() does, and nothing may "
                      "be moved across: nothing is rewritten"};
  }
  return std::nullopt;
}

} // namespace

bool formSteps(PassContext& context) {
  if (const auto obstacle = findObstacle(*context.method.graph)) {
    context.remarks.analysis(obstacle->node, obstacle->why);
    return false;
  }
  const bool hoisted = hoistAttributeReads(*context.method.graph);
  const bool sunk = sinkViews(*context.method.graph);
  return Former(context).run() || hoisted || sunk;
}

} // namespace inv::opt
