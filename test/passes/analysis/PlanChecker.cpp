#include "test/passes/analysis/PlanChecker.h"

#include "passes/Passes.h"
#include "passes/rules/Match.h"
#include "passes/support/GraphRunner.h"
#include "passes/transforms/BlockPlan.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <cmath>
#include <limits>
#include <map>

namespace inv::opt::testing {

using namespace torch::jit;

namespace {

/// Runs one candidate's inverse on values instead of writing it into a step.
class RunInverse final : public InverseBuilder {
public:
  RunInverse(const Dataflow& flow, NodeId node, const ValueMap& forward,
             const std::function<at::Tensor(ValueId)>& available)
      : flow_(flow), node_(node), forward_(forward), available_(available) {}

  std::vector<at::Tensor> run(const Candidate& candidate) {
    WithInsertPoint at(graph_.return_node());
    for (Value* solved : candidate.emit(*this))
      graph_.registerOutput(solved);
    std::vector<at::Tensor> out;
    for (const c10::IValue& v : runGraph(graph_, values_))
      out.push_back(v.toTensor());
    return out;
  }

  Graph& graph() override { return graph_; }
  Value* result(size_t i) override {
    const ValueId y = flow_.node(node_).results.at(i);
    return input(flow_.value(y).value, available_(y));
  }
  Value* operand(Value* original) override {
    if (auto constant = toIValue(original))
      return graph_.insertConstant(*constant);
    const ValueId v = flow_.idOf(original);
    const bool activation = flow_.value(v).isActivation();
    return input(original, activation ? c10::IValue(available_(v))
                                      : forward_.at(original));
  }
  bool isOutside(Value*) override { return true; }
  Value* sizeOf(Value* solved, int64_t dim) override {
    return graph_.insertConstant(forward_.at(solved).toTensor().size(dim));
  }
  Value* sizesOf(Value* solved) override {
    return graph_.insertConstant(forward_.at(solved).toTensor().sizes().vec());
  }
  Value*
  recorded(Value* solved, const std::string&,
           const std::function<Value*(Graph&, const Lookup&)>& make) override {
    return make(graph_, [&](Value* v) {
      return v == solved || flow_.value(flow_.idOf(v)).isActivation()
                 ? input(v, forward_.at(v))
                 : operand(v);
    });
  }
  std::vector<Value*> call(Node*, const std::string&,
                           const std::vector<Value*>&) override {
    throw std::logic_error("annotated modules are not checked here");
  }

private:
  Value* input(Value* original, c10::IValue value) {
    auto found = inputs_.find(original);
    if (found != inputs_.end())
      return found->second;
    Value* in = graph_.addInput();
    in->setType(original->type());
    values_.push_back(std::move(value));
    return inputs_[original] = in;
  }

  const Dataflow& flow_;
  const NodeId node_;
  const ValueMap& forward_;
  const std::function<at::Tensor(ValueId)>& available_;
  Graph graph_;
  std::vector<c10::IValue> values_;
  std::map<Value*, Value*> inputs_;
};

at::Tensor nans(const at::Tensor& like) {
  return at::full_like(like, std::numeric_limits<double>::quiet_NaN());
}

/// A derivation to leave out.
struct Forgotten {
  const BlockPlan* plan = nullptr;
  size_t number = 0;
};

/// Whether somebody takes on what a block's steps end with.
enum class Behind {
  Nothing, ///< they hold it
  Next,    ///< the next iteration's do
};

/// One run of a block, and its backward.
class Execution {
public:
  /// `values`: of the forward run, at its end.
  Execution(const BlockPlan& plan, ValueMap values, Behind behind,
            Forgotten forgotten)
      : plan_(plan), flow_(plan.flow()), values_(std::move(values)),
        behind_(behind), forgotten_(forgotten) {}

  /// What is there as backward begins.
  void give(ValueId v, const at::Tensor& t) {
    given_.insert({flow_.canonical(v), t});
  }

  void addGradient(const Value* v, const at::Tensor& g) {
    if (!g.defined())
      return;
    at::Tensor& sum = gradients_[v];
    sum = sum.defined() ? sum + g : g;
  }

  at::Tensor gradient(const Value* v) const {
    auto found = gradients_.find(v);
    return found == gradients_.end() ? at::Tensor() : found->second;
  }

  at::Tensor available(ValueId v) const {
    if (!flow_.value(v).isActivation() || kept_.count(flow_.storage(v)))
      return value(v);
    if (auto found = rebuilt_.find(flow_.canonical(v)); found != rebuilt_.end())
      return found->second;
    auto found = given_.find(flow_.canonical(v));
    return found == given_.end() ? nans(value(v)) : found->second;
  }

  /// The inverse program, as far as it goes. Then each operator's derivative;
  /// behind an if or a loop, what its steps rebuild lets the program go on.
  void backward() {
    findKept();
    done_.assign(plan_.found.derivations.size(), false);
    rebuild();
    for (NodeId n = NodeId(flow_.nodes().size()) - 1; n >= 0; --n) {
      const NodeInfo& info = flow_.node(n);
      if (info.glue || info.node->kind() == prim::GetAttr ||
          info.node->kind() == prim::Constant)
        continue;
      bool wanted = false;
      for (ValueId v : info.results)
        wanted |= gradients_.count(flow_.value(v).value) != 0;
      if (wanted)
        differentiate(n);
      if (isEntered(info.node)) {
        takeOver(info);
        rebuild();
      }
    }
  }

private:
  at::Tensor value(ValueId v) const {
    return values_.at(flow_.value(v).value).toTensor();
  }

  const BlockPlan* planOf(const Block* block) const {
    for (const auto& inner : plan_.inner)
      if (&inner->flow().block() == block)
        return inner.get();
    return nullptr;
  }

  bool isEntered(const Node* n) const {
    return std::any_of(n->blocks().begin(), n->blocks().end(),
                       [&](const Block* b) { return planOf(b) != nullptr; });
  }

  /// Kept around the block, by an operator that stays plain, or by a step.
  void findKept() {
    std::set<NodeId> inStep;
    std::set<ValueId> taken;
    for (const Derivation& d : plan_.found.derivations) {
      if (d.candidate >= 0)
        inStep.insert(d.node);
      inStep.insert(d.conditioner.begin(), d.conditioner.end());
      for (ValueId x : d.solved)
        taken.insert(flow_.storage(x));
    }
    auto keep = [&](ValueId v) { kept_.insert(flow_.storage(v)); };
    for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v) {
      const ValueInfo& info = flow_.value(v);
      const Availability a = plan_.found.availability[flow_.canonical(v)];
      if (info.keptAround || a == Availability::Anchor)
        keep(v);
      // A step holds it, or the steps of the next iteration take it.
      if (info.unclaimed && !taken.count(info.storage))
        keep(v);
      if (info.unclaimed && behind_ == Behind::Nothing)
        give(v, value(v));
    }
    for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n)
      if (!inStep.count(n) && !isEntered(flow_.node(n).node))
        for (ValueId v : flow_.node(n).saved)
          keep(v);
  }

  bool isThere(ValueId v) const {
    return !flow_.value(v).isActivation() || !isTensor(flow_.value(v)) ||
           !available(v).isnan().any().item<bool>();
  }

  bool isReady(const Derivation& d) const {
    const auto there = [&](ValueId v) { return isThere(v); };
    const auto& results = flow_.node(d.node).results;
    return std::all_of(d.terminals.begin(), d.terminals.end(), there) &&
           (d.candidate < 0 || d.ofPart ||
            std::all_of(results.begin(), results.end(), there));
  }

  /// What an if or a loop was given: its steps rebuild it, or it is held.
  void takeOver(const NodeInfo& info) {
    for (ValueId v : info.saved) {
      auto found = inside_.find(flow_.value(v).value);
      const bool rebuilt =
          found != inside_.end() && !found->second.isnan().any().item<bool>();
      give(v, rebuilt ? found->second : value(v));
    }
  }

  /// Conditioners run again, rules applied.
  void rebuild() {
    at::NoGradGuard noGrad;
    const std::function<at::Tensor(ValueId)> get = [this](ValueId v) {
      return available(v);
    };
    for (size_t number = 0; number < done_.size(); ++number) {
      const Derivation& d = plan_.found.derivations[number];
      if (done_[number] || !isReady(d) ||
          (number == forgotten_.number && forgotten_.plan == &plan_))
        continue;
      done_[number] = true;
      for (NodeId n : d.conditioner)
        rerun(n);
      if (d.candidate < 0)
        continue;
      const Candidate c =
          candidatesOf(d.node, plan_.rules()).at(size_t(d.candidate));
      const auto solved = RunInverse(flow_, d.node, values_, get).run(c);
      for (size_t i = 0; i < d.solved.size(); ++i) {
        at::Tensor& now = rebuilt_[flow_.canonical(d.solved[i])];
        if (solvesPart(d, i))
          now = withPart(now.defined() ? now : nans(value(d.solved[i])),
                         d.elements[i], solved.at(i));
        else
          now = solved.at(i);
      }
    }
  }

  static at::Tensor withPart(const at::Tensor& whole, const Elements& e,
                             const at::Tensor& part) {
    at::Tensor out = whole.clone();
    for (const Elements::Term& t : e.terms) {
      if (t.kind == Elements::Kind::Mask) {
        out = at::where(t.mask, part, out);
        continue;
      }
      at::Tensor all = at::arange(whole.size(t.dim));
      if (t.kind == Elements::Kind::Slice)
        all = all.slice(0, t.start, t.end, t.step);
      else
        all = at::tensor(t.places, at::kLong);
      if (t.inverted) {
        at::Tensor rest = at::ones({whole.size(t.dim)}, at::kBool);
        rest.index_fill_(0, all, 0);
        all = rest.nonzero().flatten();
      }
      out.index_copy_(t.dim, all,
                      e.compact ? part : part.index_select(t.dim, all));
    }
    return out;
  }

  void rerun(NodeId n) {
    ValueMap env = values_;
    for (ValueId v : flow_.node(n).operands)
      if (flow_.value(v).isActivation() && isTensor(flow_.value(v)))
        env[flow_.value(v).value] = available(v);
    runWithLists(n, env);
    for (ValueId v : flow_.node(n).results)
      if (isTensor(flow_.value(v)))
        rebuilt_[flow_.canonical(v)] = env.at(flow_.value(v).value).toTensor();
  }

  /// Runs a node, with the packing of its lists before and the unpacking of its
  /// results behind it.
  void runWithLists(NodeId n, ValueMap& env) {
    Node* node = flow_.node(n).node;
    for (Value* in : node->inputs())
      if (in->node()->kind() == prim::ListConstruct)
        runOneNode(in->node(), env);
    runOneNode(node, env);
    if (node->outputs().size() == 1 && !node->output()->uses().empty()) {
      Node* user = node->output()->uses()[0].user;
      if (user->kind() == prim::ListUnpack)
        runOneNode(user, env);
    }
  }

  bool keepsResult(const NodeInfo& info) const {
    for (ValueId v : info.results)
      if (std::find(info.saved.begin(), info.saved.end(), v) !=
          info.saved.end())
        return true;
    return false;
  }

  void differentiate(NodeId n) {
    const NodeInfo& info = flow_.node(n);
    if (isEntered(info.node))
      return differentiateBlocks(info.node);
    // An operator that keeps its result can only be run again from its operand;
    // that is allowed where the result is there and is what it was.
    bool fromResult = false;
    if (keepsResult(info)) {
      fromResult = true;
      for (ValueId v : info.results)
        if (isTensor(flow_.value(v)))
          fromResult &= at::allclose(available(v), value(v), 1e-9, 1e-9);
    }
    ValueMap env = values_;
    std::vector<at::Tensor> leaves;
    std::vector<Value*> leafValues;
    for (ValueId v : info.operands) {
      if (!isTensor(flow_.value(v)) || !value(v).is_floating_point())
        continue;
      const bool saved = std::find(info.saved.begin(), info.saved.end(), v) !=
                         info.saved.end();
      at::Tensor t = fromResult                      ? value(v)
                     : saved                         ? available(v)
                     : flow_.value(v).isActivation() ? nans(value(v))
                                                     : value(v);
      t = t.detach().clone().requires_grad_();
      env[flow_.value(v).value] = t;
      leaves.push_back(t);
      leafValues.push_back(flow_.value(v).value);
    }
    if (leaves.empty())
      return;
    at::AutoGradMode grad(true);
    runWithLists(n, env);
    std::vector<at::Tensor> outputs, upstream;
    for (ValueId v : info.results) {
      Value* out = flow_.value(v).value;
      auto found = gradients_.find(out);
      if (found == gradients_.end() || !isTensor(flow_.value(v)) ||
          !env.at(out).toTensor().requires_grad())
        continue;
      outputs.push_back(env.at(out).toTensor());
      upstream.push_back(found->second);
    }
    if (outputs.empty())
      return;
    const auto grads = torch::autograd::grad(outputs, leaves, upstream,
                                             std::nullopt, false, true);
    for (size_t i = 0; i < leaves.size(); ++i)
      addGradient(leafValues[i], grads[i]);
  }

  /// An if or a loop with a plan for its blocks.
  void differentiateBlocks(const Node* n) {
    std::vector<at::Tensor> upstream;
    for (const Value* out : n->outputs())
      upstream.push_back(gradient(out));
    if (n->kind() == prim::Loop)
      return differentiateLoop(n, std::move(upstream));
    const Block* block =
        n->blocks().at(values_.at(n->input()).toBool() ? 0 : 1);
    if (const BlockPlan* plan = planOf(block)) {
      const auto run = runBackward(*plan, valuesOf(block, values_),
                                   Behind::Nothing, upstream, nullptr, n);
      finish(*run);
      for (const ValueInfo& v : plan->flow().values())
        if (v.graphInput && isTensor(v))
          inside_[v.value] = run->available(plan->flow().idOf(v.value));
    } else // hands on what there was
      for (size_t i = 0; i < upstream.size(); ++i)
        addGradient(block->outputs().at(i), upstream[i]);
  }

  static ValueMap valuesOf(const Block* block, ValueMap env) {
    at::NoGradGuard noGrad;
    runBlock(block, env);
    return env;
  }

  void differentiateLoop(const Node* loop, std::vector<at::Tensor> upstream) {
    const Block* body = loop->blocks().at(0);
    const size_t count = loop->outputs().size();
    std::vector<ValueMap> runs;
    bool go = values_.at(loop->input(1)).toBool();
    for (int64_t i = 0; i < values_.at(loop->input(0)).toInt() && go; ++i) {
      ValueMap env = values_;
      env[body->inputs()[0]] = i;
      for (size_t k = 0; k < count; ++k)
        env[body->inputs()[k + 1]] =
            i == 0 ? values_.at(loop->input(k + 2))
                   : runs.back().at(body->outputs()[k + 1]);
      runs.push_back(valuesOf(body, std::move(env)));
      go = runs.back().at(body->outputs()[0]).toBool();
    }
    std::unique_ptr<Execution> next;
    while (!runs.empty()) {
      auto now = runBackward(*planOf(body), std::move(runs.back()),
                             next ? Behind::Next : Behind::Nothing, upstream,
                             next.get(), loop);
      runs.pop_back();
      for (size_t k = 0; k < count; ++k)
        upstream[k] = now->gradient(body->inputs()[k + 1]);
      finish(*now);
      next = std::move(now);
    }
    for (size_t k = 0; k < count; ++k) {
      addGradient(loop->input(k + 2), upstream[k]);
      if (next && values_.at(loop->input(k + 2)).isTensor())
        inside_[loop->input(k + 2)] =
            next->available(next->flow_.idOf(body->inputs()[k + 1]));
    }
  }

  /// One run of a block inside; `next`: the iteration behind it.
  std::unique_ptr<Execution>
  runBackward(const BlockPlan& plan, ValueMap values, Behind behind,
              const std::vector<at::Tensor>& upstream, const Execution* next,
              const Node* node) const {
    auto run = std::make_unique<Execution>(plan, std::move(values), behind,
                                           forgotten_);
    const Dataflow& flow = plan.flow();
    const Block& block = flow.block();
    const size_t first = flow.isLoop() ? 1 : 0;
    for (ValueId v = 0; v < ValueId(flow.values().size()); ++v)
      if (const ValueId known = flow_.idOf(flow.value(v).value);
          known >= 0 && flow.value(v).there)
        run->give(v, available(known));
    for (size_t k = first; k < block.outputs().size(); ++k) {
      const ValueId out = flow.idOf(block.outputs()[k]);
      if (next)
        run->give(out, next->available(flow.idOf(block.inputs()[k])));
      else if (!flow.value(out).unclaimed)
        run->give(out, available(flow_.idOf(node->output(k - first))));
      run->addGradient(block.outputs()[k], upstream[k - first]);
    }
    run->backward();
    return run;
  }

  /// Gradients of what the block read from around it.
  void finish(const Execution& run) {
    for (const auto& [v, gradient] : run.gradients_)
      if (flow_.idOf(v) >= 0)
        addGradient(v, gradient);
  }

  const BlockPlan& plan_;
  const Dataflow& flow_;
  const ValueMap values_;
  const Behind behind_;
  const Forgotten forgotten_;
  std::set<ValueId> kept_;                        ///< storages
  std::map<ValueId, at::Tensor> rebuilt_, given_; ///< by canonical value
  std::map<const Value*, at::Tensor> gradients_;
  /// What blocks inside had, at the end of their backward, of what they read.
  std::map<const Value*, at::Tensor> inside_;
  std::vector<bool> done_; ///< derivations
};

class Checker {
public:
  Checker(const PassContext& context, const std::vector<at::Tensor>& inputs)
      : graph_(*context.method.graph), self_(context.model.module._ivalue()),
        inputs_(inputs), facts_(context), plan_(facts_) {}

  PlanCheck run(int forget) {
    PlanCheck check;
    Forgotten forgotten;
    forEachPlan(plan_, [&](const BlockPlan& plan) {
      const size_t count = plan.found.derivations.size();
      if (forget >= int(check.derivations) &&
          forget < int(check.derivations + count))
        forgotten = {&plan, size_t(forget) - check.derivations};
      check.derivations += count;
      check.dropped += plan.found.dropped.size();
    });
    ValueMap values;
    {
      at::NoGradGuard noGrad;
      std::vector<c10::IValue> stack{self_};
      stack.insert(stack.end(), inputs_.begin(), inputs_.end());
      runGraph(graph_, stack, &values);
    }
    Execution execution(plan_, values, Behind::Nothing, forgotten);
    for (const Value* out : graph_.outputs())
      execution.addGradient(out, at::ones_like(values.at(out).toTensor()));
    execution.backward();
    compare(check, execution);
    return check;
  }

private:
  void compareOne(PlanCheck& check, const std::string& name,
                  const at::Tensor& got, const at::Tensor& want) {
    if (!want.defined() || want.numel() == 0)
      return;
    double error = std::numeric_limits<double>::quiet_NaN();
    if (got.defined())
      error = (got - want).abs().max().item<double>() /
              std::max(want.abs().max().item<double>(), 1e-12);
    if (std::isnan(error) || error > check.worst) {
      check.worst = error;
      check.worstName = name;
    }
  }

  void compare(PlanCheck& check, const Execution& execution) {
    // Plain autograd on the same graph.
    std::vector<c10::IValue> stack{self_};
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& in : inputs_) {
      leaves.push_back(in.detach().clone().requires_grad_());
      stack.emplace_back(leaves.back());
    }
    ValueMap env;
    const at::Tensor out = runGraph(graph_, stack, &env).at(0).toTensor();
    std::vector<Value*> values(graph_.inputs().begin() + 1,
                               graph_.inputs().end());
    for (const NodeInfo& info : facts_.flow.nodes()) {
      if (info.node->kind() != prim::GetAttr ||
          !env.at(info.node->output()).isTensor())
        continue;
      const at::Tensor t = env.at(info.node->output()).toTensor();
      if (!t.requires_grad())
        continue;
      leaves.push_back(t);
      values.push_back(info.node->output());
    }
    const auto want = torch::autograd::grad({out}, leaves, {at::ones_like(out)},
                                            std::nullopt, false, true);
    for (size_t i = 0; i < leaves.size() && !std::isnan(check.worst); ++i)
      compareOne(check, values[i]->debugName(), execution.gradient(values[i]),
                 want[i]);
  }

  Graph& graph_;
  c10::IValue self_;
  const std::vector<at::Tensor>& inputs_;
  MethodFacts facts_;
  BlockPlan plan_;
};

} // namespace

PlanCheck checkPlan(Module module, const std::vector<at::Tensor>& inputs,
                    int forget) {
  Model model;
  model.module = module;
  model.methods.emplace_back();
  model.methods[0].name = "forward";
  auto graph = module.get_method("forward").graph()->copy();
  Inline(*graph);
  model.methods[0].graph = graph;
  Remarks remarks;
  const Options options;
  PassContext context{model, model.methods[0], options, remarks};
  canonicalize(context);
  splitStreams(context);
  return Checker(context, inputs).run(forget);
}

} // namespace inv::opt::testing
