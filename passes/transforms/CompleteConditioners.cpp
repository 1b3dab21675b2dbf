#include "passes/transforms/CompleteConditioners.h"

#include "passes/rules/Match.h"
#include "passes/transforms/DerivedValues.h"

#include <algorithm>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// Of its tensor the operator reads sizes, dtype and device alone.
bool takesShapeOnly(const Node* n) {
  static const std::unordered_set<std::string> names = {
      "empty_like", "zeros_like", "ones_like", "full_like",
      "new_empty",  "new_zeros",  "new_ones",  "new_full"};
  return n->kind().is_aten() && names.count(n->kind().toUnqualString()) != 0;
}

/// Elementwise, a view, or a reduction: cheap to run again.
bool isTermOperator(const Node* n) {
  static const std::unordered_set<std::string> names = {
      "add",     "sub",      "rsub",        "mul",   "div",    "neg",
      "log",     "log1p",    "exp",         "abs",   "square", "tanh",
      "sigmoid", "softplus", "log_sigmoid", "atan",  "clamp",  "clamp_min",
      "flatten", "view",     "reshape",     "slice", "select", "chunk",
      "split",   "sum",      "mean"};
  return n->kind().is_aten() && names.count(n->kind().toUnqualString()) != 0;
}

class Completer {
public:
  Completer(std::vector<StepDraft>& steps, const Dataflow& flow)
      : steps_(steps), flow_(flow) {}

  void run() {
    for (StepDraft& step : steps_) {
      pullIntegers(step);
      pullChecks(step);
    }
    pullTerms();
    std::vector<std::vector<ValueId>> reads;
    for (const StepDraft& step : steps_)
      reads.push_back(readsOf(step));
    const DerivedValues derived(flow_, reads);
    for (StepDraft& step : steps_)
      pullDerived(step, derived);
  }

private:
  void pullNumbers(StepDraft& step, const std::vector<NodeId>& readers);
  void pullIntegers(StepDraft& step);
  void pullChecks(StepDraft& step);
  void pullTerms();
  bool collectTerm(NodeId n, std::set<NodeId>& term, int& step, int depth);
  bool keepsSomething(NodeId n) const;
  void pullDerived(StepDraft& step, const DerivedValues& derived) const;
  std::vector<NodeId> readersThroughNumbers(ValueId v) const;
  using Memo = std::unordered_map<ValueId, bool>;
  bool computedInside(ValueId v, const std::unordered_set<NodeId>& inside,
                      Memo& memo, std::vector<NodeId>& through) const;
  std::vector<ValueId> readsOf(const StepDraft& step) const;

  std::vector<StepDraft>& steps_;
  const Dataflow& flow_;
  std::unordered_map<NodeId, int> inside_; ///< node → step that has it
};

/// True where `v`, a number (list, flag) or what is made of numbers and
/// parameters alone (a mask by torch.eye), follows from a tensor that is made
/// inside; adds to `through` the nodes on the way, each once for one `memo`.
bool Completer::computedInside(ValueId v,
                               const std::unordered_set<NodeId>& inside,
                               Memo& memo, std::vector<NodeId>& through) const {
  const ValueInfo& info = flow_.value(v);
  if (info.def < 0)
    return false;
  if (inside.count(info.def))
    return true;
  // An activation counts only where it is asked for its shape (empty_like).
  if (isTensor(info) && info.isActivation() &&
      !takesShapeOnly(flow_.node(info.def).node))
    return false;
  if (auto known = memo.find(v); known != memo.end())
    return known->second;
  bool found = false;
  for (ValueId operand : flow_.node(info.def).operands)
    found |= computedInside(operand, inside, memo, through);
  memo[v] = found;
  if (found)
    through.push_back(info.def);
  return found;
}

/// What `readers` read that follows from the sizes, the dtype or the device of
/// tensors made inside, and the readers themselves, become part of the step.
void Completer::pullNumbers(StepDraft& step,
                            const std::vector<NodeId>& readers) {
  const std::unordered_set<NodeId> inside(step.conditioner.begin(),
                                          step.conditioner.end());
  Memo memo;
  std::vector<NodeId> through;
  for (NodeId n : readers)
    for (ValueId operand : flow_.node(n).operands)
      if (!isTensor(flow_.value(operand)) ||
          !flow_.value(operand).isActivation())
        computedInside(operand, inside, memo, through);
  std::set<NodeId> all(step.conditioner.begin(), step.conditioner.end());
  all.insert(readers.begin(), readers.end());
  all.insert(through.begin(), through.end());
  step.conditioner.assign(all.begin(), all.end());
}

/// All other numbers are handed in.
void Completer::pullIntegers(StepDraft& step) {
  pullNumbers(step, step.conditioner);
}

void Completer::pullChecks(StepDraft& step) {
  std::vector<NodeId> checks;
  for (NodeId n : step.conditioner)
    for (ValueId v : flow_.node(n).results)
      for (NodeId reader : readersThroughNumbers(v))
        if (flow_.node(reader).effect == EffectKind::Assert &&
            flow_.node(reader).results.empty())
          checks.push_back(reader);
  pullNumbers(step, checks);
}

/// Nodes that read `v`, or a number computed from it.
std::vector<NodeId> Completer::readersThroughNumbers(ValueId v) const {
  std::vector<NodeId> out;
  std::unordered_set<ValueId> seen;
  std::vector<ValueId> work{v};
  while (!work.empty()) {
    const ValueId at = work.back();
    work.pop_back();
    for (NodeId reader : flow_.value(at).readers) {
      out.push_back(reader);
      for (ValueId result : flow_.node(reader).results)
        if (!flow_.value(result).isActivation() &&
            !isTensor(flow_.value(result)) && seen.insert(result).second)
          work.push_back(result);
    }
  }
  return out;
}

/// What the step's nodes and its inverse read, what they make included.
std::vector<ValueId> Completer::readsOf(const StepDraft& step) const {
  std::vector<ValueId> reads;
  for (const auto* nodes : {&step.conditioner, &step.stream})
    for (NodeId n : *nodes)
      reads.insert(reads.end(), flow_.node(n).operands.begin(),
                   flow_.node(n).operands.end());
  for (const Derivation& d : step.derivations)
    reads.insert(reads.end(), d.others.begin(), d.others.end());
  return reads;
}

void Completer::pullDerived(StepDraft& step,
                            const DerivedValues& derived) const {
  std::set<NodeId> all(step.conditioner.begin(), step.conditioner.end());
  for (ValueId v : readsOf(step)) {
    const std::vector<NodeId> nodes = derived.nodesFor(v);
    all.insert(nodes.begin(), nodes.end());
  }
  step.conditioner.assign(all.begin(), all.end());
}

/// Its derivative keeps a tensor that is not a parameter's.
bool Completer::keepsSomething(NodeId n) const {
  const NodeInfo& info = flow_.node(n);
  if (!info.saved.empty())
    return true;
  return info.node->kind() == aten::mul &&
         std::any_of(info.operands.begin(), info.operands.end(),
                     [&](ValueId v) {
                       return flow_.value(v).origin == Origin::Derived &&
                              flow_.storage(v) == v;
                     });
}

/// From a sum back to the results of one step's network.
bool Completer::collectTerm(NodeId n, std::set<NodeId>& term, int& step,
                            int depth) {
  const NodeInfo& info = flow_.node(n);
  if (depth == 0 || info.glue || info.effect != EffectKind::Pure ||
      inside_.count(n) || !isTermOperator(info.node) ||
      std::any_of(info.results.begin(), info.results.end(),
                  [&](ValueId v) { return flow_.value(v).graphOutput; }))
    return false;
  term.insert(n);
  bool reads = false;
  for (ValueId v : info.operands) {
    if (!flow_.value(v).isActivation())
      continue;
    reads = true;
    const NodeId def = flow_.value(v).def;
    const auto maker = inside_.find(def);
    if (maker != inside_.end()) {
      if (step >= 0 && step != maker->second)
        return false;
      step = maker->second;
    } else if (def < 0 || !collectTerm(def, term, step, depth - 1)) {
      return false;
    }
  }
  return reads;
}

void Completer::pullTerms() {
  constexpr int kDeepest = 6;
  std::unordered_set<NodeId> streams;
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (NodeId n : steps_[i].conditioner)
      if (!isCopied(flow_, n))
        inside_[n] = int(i);
    streams.insert(steps_[i].stream.begin(), steps_[i].stream.end());
  }
  for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n) {
    const Symbol kind = flow_.node(n).node->kind();
    std::set<NodeId> term;
    int step = -1;
    if ((kind != aten::sum && kind != aten::mean) ||
        !collectTerm(n, term, step, kDeepest) || step < 0 ||
        std::none_of(term.begin(), term.end(),
                     [&](NodeId t) { return keepsSomething(t); }) ||
        std::any_of(term.begin(), term.end(),
                    [&](NodeId t) { return streams.count(t) != 0; }))
      continue;
    auto& conditioner = steps_[size_t(step)].conditioner;
    for (NodeId t : term) {
      conditioner.push_back(t);
      if (!isCopied(flow_, t))
        inside_[t] = step;
    }
    std::sort(conditioner.begin(), conditioner.end());
    conditioner.erase(std::unique(conditioner.begin(), conditioner.end()),
                      conditioner.end());
  }
}

} // namespace

void completeConditioners(std::vector<StepDraft>& steps, const Dataflow& flow) {
  Completer(steps, flow).run();
}

} // namespace inv::opt
