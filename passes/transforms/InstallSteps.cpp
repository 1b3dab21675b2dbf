#include "passes/transforms/InstallSteps.h"

#include "passes/support/GraphUtil.h"
#include "passes/support/Holds.h"
#include "passes/support/Symbols.h"
#include "passes/support/Written.h"
#include "passes/transforms/StepMethods.h"

#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// The steps of one block.
class Installer {
public:
  Installer(const BlockPlan& plan, StepWriter& writer)
      : plan_(plan), flow_(plan.flow()), end_(flow_.block().return_node()),
        writer_(writer) {}

  void run() {
    for (int32_t unit : plan_.schedule.order) {
      if (unit < 0)
        installStep(plan_.drafts[size_t(-1 - unit)]);
      else
        keepNode(unit);
    }
    if (flow_.outer())
      for (size_t i = 0; i < end_->inputs().size(); ++i)
        passOn(end_, i);
    for (auto& [old, now] : replaced_)
      old->replaceAllUsesWith(now);
    for (const PassThrough& p : passThrough_)
      p.node->replaceInput(p.input, p.value);
    removeOldNodes();
  }

private:
  struct PassThrough {
    Node* node;
    size_t input;
    Value* value;
  };

  /// What stands for a value of the old graph at this point: the newest tensor
  /// that carries the state.
  Value* current(Value* v) const {
    auto passed = newest_.find(v);
    if (passed != newest_.end())
      return passed->second;
    auto found = replaced_.find(v);
    return found == replaced_.end() ? v : found->second;
  }

  void installStep(const StepDraft& d) {
    WithInsertPoint at(end_);
    std::vector<Value*> outputs = writer_.write(
        d, plan_.rules(), [this](Value* v) { return current(v); });
    size_t next = 0;
    for (const auto* list : {&d.ys, &d.sides})
      for (ValueId v : *list)
        replaced_[flow_.value(v).value] = outputs.at(next++);
    // Later steps read a state behind this one, so that every state of a chain
    // has a step behind it.
    for (ValueId v : d.zs)
      if (next < outputs.size())
        newest_[flow_.value(v).value] = outputs.at(next++);
  }

  /// The node's operand, or the block's result, becomes the newest tensor of
  /// the state, unless it may be what the method returns.
  void passOn(Node* node, size_t input) {
    Value* v = node->input(input);
    auto newest = newest_.find(v);
    if (newest != newest_.end() && !plan_.leaving().count(v))
      passThrough_.push_back({node, input, newest->second});
  }

  void keepNode(NodeId n) {
    Node* node = flow_.node(n).node;
    kept_.insert(n);
    node->moveBefore(end_);
    passOnTo(node);
    for (Block* inner : node->blocks())
      for (Node* m : allNodes(inner))
        passOnTo(m);
  }

  /// A step in an if or a loop is part of the chain; so is a resplit, which
  /// hands states from block to block, and a loop that is handed states.
  void passOnTo(Node* node) {
    if (node->kind() == prim::Loop)
      for (size_t i = 2; i < node->inputs().size(); ++i)
        passOn(node, i);
    if (node->kind() != prim::ListConstruct ||
        node->output()->uses().size() != 1)
      return;
    const Symbol reader = node->output()->uses()[0].user->kind();
    if (reader != sym::resplit() && !sym::isStep(reader))
      return;
    for (size_t i = 0; i < node->inputs().size(); ++i)
      if (auto newest = newest_.find(node->input(i)); newest != newest_.end())
        passThrough_.push_back({node, i, newest->second});
  }

  void removeOldNodes() {
    for (NodeId n = NodeId(flow_.nodes().size()) - 1; n >= 0; --n)
      if (!kept_.count(n))
        flow_.node(n).node->destroy();
  }

  const BlockPlan& plan_;
  const Dataflow& flow_;
  Node* end_;
  StepWriter& writer_;
  std::unordered_map<Value*, Value*> replaced_, newest_;
  std::vector<PassThrough> passThrough_;
  std::unordered_set<NodeId> kept_;
};

/// Blocks inside first: the tables of the block around them know its nodes as
/// they are now.
void install(const BlockPlan& plan, StepWriter& writer) {
  for (const auto& inner : plan.inner)
    install(*inner, writer);
  if (!plan.drafts.empty())
    Installer(plan, writer).run();
}

/// The first statement of a rewritten method asks for the runtime.
void requireRuntime(Graph& graph) {
  for (Node* n : graph.nodes())
    if (n->kind() == sym::needsRuntime())
      return;
  graph.prependNode(graph.create(sym::needsRuntime(), 0));
}

} // namespace

void installSteps(const BlockPlan& plan, PassContext& context) {
  Graph& graph = *context.method.graph;
  StepWriter writer(context);
  install(plan, writer);
  lowerWritten(graph.block());
  lowerHolds(graph.block());
  hoistAttributeReads(graph);
  requireRuntime(graph);
}

} // namespace inv::opt
