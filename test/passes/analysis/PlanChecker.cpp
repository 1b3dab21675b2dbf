#include "test/passes/analysis/PlanChecker.h"

#include "passes/Passes.h"
#include "passes/analysis/Invertibility.h"
#include "passes/rules/Match.h"
#include "passes/support/GraphRunner.h"

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

class Checker {
public:
  Checker(Graph& graph, const c10::IValue& self,
          const std::vector<at::Tensor>& inputs)
      : graph_(graph), flow_(graph, nullptr, self), self_(self),
        inputs_(inputs), rules_{flow_, options_, self} {}

  PlanCheck run(int forget) {
    forward();
    plan_ = findInvertibility(rules_);
    rebuild(forget);
    backward();
    PlanCheck check;
    check.derivations = plan_.derivations.size();
    check.dropped = plan_.dropped.size();
    compare(check);
    return check;
  }

private:
  void forward() {
    at::NoGradGuard noGrad;
    std::vector<c10::IValue> stack{self_};
    stack.insert(stack.end(), inputs_.begin(), inputs_.end());
    runGraph(graph_, stack, &values_);
  }

  at::Tensor value(ValueId v) const {
    return values_.at(flow_.value(v).value).toTensor();
  }

  /// Kept by the caller, by an operator that stays plain, or by a step.
  void findKept() {
    std::set<NodeId> inStep;
    for (const Derivation& d : plan_.derivations) {
      if (d.candidate >= 0)
        inStep.insert(d.node);
      inStep.insert(d.conditioner.begin(), d.conditioner.end());
    }
    auto keep = [&](ValueId v) { kept_.insert(flow_.storage(v)); };
    for (ValueId v = 0; v < ValueId(flow_.values().size()); ++v)
      if (flow_.value(v).graphInput || flow_.value(v).graphOutput ||
          plan_.availability[flow_.canonical(v)] == Availability::Anchor)
        keep(v);
    for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n)
      if (!inStep.count(n))
        for (ValueId v : flow_.node(n).saved)
          keep(v);
  }

  at::Tensor available(ValueId v) const {
    if (!flow_.value(v).isActivation() || kept_.count(flow_.storage(v)))
      return value(v);
    auto found = rebuilt_.find(flow_.canonical(v));
    return found == rebuilt_.end() ? nans(value(v)) : found->second;
  }

  /// The inverse program: conditioners run again, rules applied.
  void rebuild(int forget) {
    at::NoGradGuard noGrad;
    findKept();
    const std::function<at::Tensor(ValueId)> get = [this](ValueId v) {
      return available(v);
    };
    int number = 0;
    for (const Derivation& d : plan_.derivations) {
      if (number++ == forget)
        continue;
      for (NodeId n : d.conditioner)
        rerun(n);
      if (d.candidate < 0)
        continue;
      const Candidate c = candidatesOf(d.node, rules_).at(size_t(d.candidate));
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

  void addGradient(Value* v, const at::Tensor& g) {
    if (!g.defined())
      return;
    at::Tensor& sum = gradients_[v];
    sum = sum.defined() ? sum + g : g;
  }

  /// Each operator's derivative, from what is there: its operands are NaN
  /// unless its derivative may read them and the plan has them.
  void backward() {
    for (Value* out : graph_.outputs())
      addGradient(out, at::ones_like(values_.at(out).toTensor()));
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
      if (found == gradients_.end() || !isTensor(flow_.value(v)))
        continue;
      outputs.push_back(env.at(out).toTensor());
      upstream.push_back(found->second);
    }
    const auto grads = torch::autograd::grad(outputs, leaves, upstream,
                                             std::nullopt, false, true);
    for (size_t i = 0; i < leaves.size(); ++i)
      addGradient(leafValues[i], grads[i]);
  }

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

  void compare(PlanCheck& check) {
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
    for (const NodeInfo& info : flow_.nodes()) {
      if (info.node->kind() != prim::GetAttr ||
          !values_.at(info.node->output()).isTensor())
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
      compareOne(check, values[i]->debugName(), gradients_[values[i]], want[i]);
  }

  Graph& graph_;
  Dataflow flow_;
  c10::IValue self_;
  const std::vector<at::Tensor>& inputs_;
  Options options_;
  RuleContext rules_;
  ValueMap values_;
  Invertibility plan_;
  std::set<ValueId> kept_; ///< storages
  std::map<ValueId, at::Tensor> rebuilt_;
  std::map<Value*, at::Tensor> gradients_;
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
  return Checker(*graph, module._ivalue(), inputs).run(forget);
}

} // namespace inv::opt::testing
