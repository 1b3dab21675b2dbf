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
// What it leaves alone. Nodes whose derivations do not pay (see the remarks),
// steps that cannot be brought together without changing the order of effects,
// methods that already hold steps for the same nodes (those are single
// operators to the analysis), blocks of ifs and loops.
#include "passes/Passes.h"
#include "passes/analysis/Accounting.h"
#include "passes/rules/Match.h"
#include "passes/support/StringUtil.h"
#include "passes/support/Symbols.h"
#include "passes/transforms/StepDraft.h"
#include "passes/transforms/StepSchedule.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>
#include <ATen/ops/sub.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <fmt/format.h>

#include <optional>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// On the sample inputs, does the module's inverse give back what went in?
bool annotationHolds(const Node* n, const ValueMap& env, double& error) {
  std::vector<c10::IValue> outputs;
  const c10::IValue& y = env.at(n->output());
  if (y.isTuple())
    for (const c10::IValue& element : y.toTupleRef().elements())
      outputs.push_back(element);
  else
    outputs.push_back(y);
  at::NoGradGuard noGrad;
  Stack stack{env.at(n->input(0))};
  stack.insert(stack.end(), outputs.begin(), outputs.end());
  stack[0].toObject()->type()->getMethod("inverse").run(stack);
  std::vector<at::Tensor> back;
  if (stack.back().isTensor())
    back.push_back(stack.back().toTensor());
  else
    for (const c10::IValue& element : stack.back().toTupleRef().elements())
      back.push_back(element.toTensor());
  error = 0.0;
  for (size_t i = 0; i < back.size(); ++i) {
    const at::Tensor x = env.at(n->input(i + 1)).toTensor();
    if (x.sizes() != back[i].sizes())
      return false;
    if (x.numel() == 0)
      continue;
    const double size = std::max(x.abs().max().item<double>(), 1e-30);
    const double distance = at::sub(x, back[i]).abs().max().item<double>();
    error = std::max(error, distance / size);
  }
  return error < 1e-2;
}

class Former {
public:
  explicit Former(PassContext& context)
      : context_(context), facts_(context), flow_(facts_.flow) {}

  bool run() {
    const Schedule schedule = plan();
    report();
    if (context_.options.analyze)
      addUp(schedule);
    if (drafts_.empty())
      return false;
    installSteps(drafts_, schedule, facts_.rules, context_);
    EliminateDeadCode(context_.method.graph);
    return true;
  }

private:
  /// What the analysis found may not come together as a step. Then it looks
  /// again, without: what is left may not pay any more.
  Schedule plan() {
    Bans bans;
    for (;;) {
      found_ = findInvertibility(facts_.rules, bans);
      std::vector<DraftRefusal> refused = wrongAnnotations();
      drafts_.clear();
      Schedule schedule;
      if (refused.empty()) {
        drafts_ = draftSteps(found_, facts_.rules, refused);
        schedule = scheduleSteps(drafts_, flow_, refused);
      }
      const size_t before = bans.size();
      for (DraftRefusal& r : refused) {
        for (const Derivation& d : r.derivations)
          ban(d, bans);
        refusals_.push_back({r.node, r.reason, std::move(r.detail)});
      }
      if (bans.size() == before)
        return schedule;
    }
  }

  std::vector<DraftRefusal> wrongAnnotations() const {
    std::vector<DraftRefusal> wrong;
    if (!facts_.run)
      return wrong;
    for (const Derivation& d : found_.derivations) {
      double error = 0.0;
      if (d.cls == RuleClass::Annotated &&
          !annotationHolds(flow_.node(d.node).node, facts_.run->values(),
                           error))
        wrong.push_back({d.node,
                         Reason::AnnotationWrong,
                         fmt::format("relative error {:.2g}", error),
                         {d}});
    }
    return wrong;
  }

  /// Storages that the step's nodes would have kept and that nobody keeps now.
  std::vector<ValueId> droppedBy(const StepDraft& d) const {
    std::set<ValueId> mine;
    for (NodeId n : d.owned)
      for (ValueId v : flow_.node(n).saved)
        mine.insert(flow_.storage(v));
    std::vector<ValueId> out;
    for (ValueId v : found_.dropped)
      if (mine.count(v))
        out.push_back(v);
    return out;
  }

  /// By ascending node; none for what became a step in another way.
  std::vector<Refusal> allRefusals() const {
    std::vector<Refusal> refusals = refusals_;
    std::set<NodeId> told;
    for (const StepDraft& d : drafts_)
      told.insert(d.owned.begin(), d.owned.end());
    std::erase_if(refusals,
                  [&](const Refusal& r) { return told.count(r.node) != 0; });
    for (const Refusal& r : refusals)
      told.insert(r.node);
    for (const Refusal& r : found_.refusals)
      if (!told.count(r.node))
        refusals.push_back(r);
    std::stable_sort(
        refusals.begin(), refusals.end(),
        [](const Refusal& a, const Refusal& b) { return a.node < b.node; });
    return refusals;
  }

  /// Before anything is rewritten.
  void addUp(const Schedule& schedule) const {
    std::vector<StepOutline> outlines;
    for (const StepDraft& d : drafts_) {
      StepOutline outline;
      outline.kind = nameOf(d.form);
      outline.nodes = d.owned;
      outline.consumed = d.xs;
      outline.states = d.ys;
      outline.states.insert(outline.states.end(), d.zs.begin(), d.zs.end());
      outline.captures = d.captures;
      outlines.push_back(std::move(outline));
    }
    auto sums = std::make_shared<Accounting>(
        account(context_, facts_, outlines, schedule.order, allRefusals()));
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

  std::string rulesOf(const StepDraft& d) const {
    std::string out;
    for (const Derivation& derivation : d.derivations)
      if (out.find(derivation.rule) == std::string::npos)
        out += (out.empty() ? "" : "+") + derivation.rule;
    return out;
  }

  void report() {
    std::set<ValueId> counted;
    for (const StepDraft& d : drafts_) {
      const Node* at =
          flow_.node(d.stream.empty() ? d.owned.back() : d.stream.back()).node;
      StepReport step;
      step.kind = nameOf(d.form);
      step.module = modulePathOf(at);
      step.source = sourceOf(at);
      step.valuesDropped = 0;
      step.bytesDropped = flow_.shapesKnown() ? 0 : -1;
      for (NodeId n : d.owned)
        if (const int64_t own = flow_.node(n).savedOwn; own > 0) {
          ++step.valuesDropped;
          if (flow_.shapesKnown())
            step.bytesDropped += own;
        }
      for (ValueId v : droppedBy(d))
        if (counted.insert(v).second) {
          ++step.valuesDropped;
          if (flow_.shapesKnown())
            step.bytesDropped += flow_.weight(v);
        }
      context_.remarks.passed(
          at, fmt::format("{} step by rule {}: {} no longer kept", step.kind,
                          rulesOf(d),
                          flow_.shapesKnown()
                              ? fmt::format("{} bytes", step.bytesDropped)
                              : fmt::format("{} values", step.valuesDropped)));
      context_.method.steps.push_back(std::move(step));
    }
    std::vector<Refusal> refusals = allRefusals();
    std::stable_sort(refusals.begin(), refusals.end(),
                     [&](const Refusal& a, const Refusal& b) {
                       return flow_.node(a.node).position <
                              flow_.node(b.node).position;
                     });
    for (const Refusal& r : refusals)
      context_.remarks.missed(flow_.node(r.node).node, r.reason, r.detail);
    std::set<Symbol> unknown;
    for (const NodeInfo& n : flow_.nodes())
      if (!n.savedKnown && !n.saved.empty() &&
          unknown.insert(n.node->kind()).second)
        context_.remarks.analysis(
            n.node, fmt::format("{} is not in the table of what derivatives "
                                "keep: taken to keep all its inputs and "
                                "outputs",
                                n.node->kind().toQualString()));
  }

  PassContext& context_;
  MethodFacts facts_;
  const Dataflow& flow_;
  Invertibility found_;
  std::vector<StepDraft> drafts_;
  std::vector<Refusal> refusals_; ///< of plans that came to nothing
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
  return Former(context).run() || hoisted;
}

} // namespace inv::opt
