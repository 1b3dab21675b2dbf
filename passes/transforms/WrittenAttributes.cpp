#include "passes/transforms/WrittenAttributes.h"

#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

WrittenAttributes::WrittenAttributes(const Dataflow& flow) : flow_(flow) {
  Block* method = flow.block().owningGraph()->block();
  std::unordered_set<std::string> paths, names;
  for (const Node* n : allNodes(method))
    if (n->kind() == prim::SetAttr)
      names.insert(n->s(attr::name));
  // Of a block, what the code around it writes, too.
  for (const Dataflow* at = &flow; at; at = at->outer())
    findTouched(*at, paths);
  findChanged(method);
  for (ValueId v = 0; v < ValueId(flow.values().size()); ++v) {
    const Value* value = flow.value(v).value;
    if (value->node()->kind() != prim::GetAttr)
      continue;
    const auto path = attributePath(const_cast<Value*>(value));
    if (!path || paths.count(*path) || changed_.count(*path) ||
        names.count(value->node()->s(attr::name)))
      written_.insert(v);
  }
}

/// The paths of what operators with an effect read, and of running statistics.
void WrittenAttributes::findTouched(const Dataflow& flow,
                                    std::unordered_set<std::string>& paths) {
  std::unordered_set<ValueId> seen;
  std::vector<ValueId> work;
  for (const NodeInfo& info : flow.nodes()) {
    if (info.effect == EffectKind::Effect)
      work.insert(work.end(), info.operands.begin(), info.operands.end());
    if (updatesStatistics(info.node))
      for (Value* statistics : scratchInputs(info.node))
        if (flow.idOf(statistics) >= 0)
          work.push_back(flow.idOf(statistics));
  }
  // Through views: without looking closer, through everything.
  while (!work.empty()) {
    const ValueId v = work.back();
    work.pop_back();
    if (flow.value(v).isActivation() || !seen.insert(v).second)
      continue;
    if (auto path = attributePath(flow.value(v).value))
      paths.insert(*path);
    else if (flow.value(v).def >= 0)
      for (ValueId operand : flow.node(flow.value(v).def).operands)
        work.push_back(operand);
  }
}

namespace {

/// Calls `visit` for the attributes that `v` is, or may be a piece of.
template <class Visit>
void forEachAttribute(const Value* v, const Visit& visit) {
  std::unordered_set<const Value*> seen;
  std::vector<const Value*> work{v};
  while (!work.empty()) {
    const Value* at = work.back();
    work.pop_back();
    if (!seen.insert(at).second || !mayHoldTensor(at->type()))
      continue;
    const Node* def = at->node();
    if (def->kind() == prim::GetAttr) {
      visit(attributePath(const_cast<Value*>(at)).value_or(std::string()));
      continue;
    }
    if (def->kind() == prim::Param && def->owningBlock()->owningNode())
      def = def->owningBlock()->owningNode(); // carried by a loop
    if (makesNewStorage(def))
      continue;
    work.insert(work.end(), def->inputs().begin(), def->inputs().end());
    for (const Block* block : def->blocks())
      work.insert(work.end(), block->outputs().begin(), block->outputs().end());
  }
}

} // namespace

void WrittenAttributes::findChanged(const Block* block) {
  for (const Node* n : block->nodes()) {
    for (const Block* inner : n->blocks())
      findChanged(inner);
    const auto note = [&](const std::string& path) { changed_.insert(path); };
    if (updatesStatistics(n))
      for (const Value* statistics : scratchInputs(n))
        forEachAttribute(statistics, note);
    const FunctionSchema* schema = n->maybeSchema();
    if (!schema || !schema->is_mutable())
      continue;
    const auto& arguments = schema->arguments();
    for (size_t i = 0; i < std::min(arguments.size(), n->inputs().size()); ++i)
      if (const c10::AliasInfo* alias = arguments[i].alias_info();
          alias && alias->isWrite())
        forEachAttribute(n->input(i), note);
  }
}

bool WrittenAttributes::mayChange(ValueId v) const {
  bool may = false;
  if (!changed_.empty())
    forEachAttribute(flow_.value(v).value, [&](const std::string& path) {
      may = may || changed_.count(path) != 0;
    });
  return may;
}

} // namespace inv::opt
