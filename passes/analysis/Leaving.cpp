#include "passes/analysis/Leaving.h"

#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Symbols.h"

#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

using namespace torch::jit;

std::unordered_set<const Value*> leavingValues(Graph& graph) {
  std::unordered_set<const Value*> leaving;
  std::vector<const Value*> work;
  const auto add = [&](const Value* v) {
    if (mayHoldTensor(v->type()) && leaving.insert(v).second)
      work.push_back(v);
  };
  const auto addResultOf = [&](const Node* n, size_t i) {
    if (n->kind() == prim::Loop) {
      add(n->input(i + 2));
      add(n->blocks().at(0)->outputs().at(i + 1));
      return;
    }
    for (const Block* branch : n->blocks())
      add(branch->outputs().at(i));
  };
  for (const Value* out : graph.outputs())
    add(out);
  while (!work.empty()) {
    const Value* v = work.back();
    work.pop_back();
    const Node* n = v->node();
    if (n->kind() == prim::Param) {
      const Node* loop = n->owningBlock()->owningNode();
      if (loop && v->offset() > 0)
        addResultOf(loop, v->offset() - 1);
    } else if (!n->blocks().empty()) {
      addResultOf(n, v->offset());
    } else if (!makesNewStorage(n) && !sym::isStep(n->kind()) &&
               n->kind() != prim::GetAttr) {
      for (const Value* in : n->inputs())
        add(in);
    }
  }
  return leaving;
}

} // namespace inv::opt
