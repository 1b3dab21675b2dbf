// States in which the input of their own network is left unchanged.
//
//   %kept = aten::mul(%m, %x)                %kept = aten::mul(%m, %x)
//   %s, %t = ... network of %kept            %s, %t = ... network of %kept
//   %e = aten::exp(aten::mul(%n, %s))        %e = ...
//   %u = aten::mul(%x, %e)              ==>  %u = aten::mul(%x, %e)
//   %y = aten::add(%u, aten::mul(%n, %t))    %y = aten::add(%u, ...)
//   ... readers of %y                        %h = inv_opt::holds(%y, %kept)
//                                            ... readers of %h
//
// %n is 0 where %m is 1: there %y is %x, and so %kept = m * y. To the analysis
// `holds` is an operator that consumes %kept, and whose inverse gives it back
// (rules/Held): the coupling of which it is the conditioner's input is then one
// like any other. Likewise where x is overwritten in part, or chosen by where.
//
// Why it is sound: holds gives its first operand, and is gone after the steps
// have been formed. What the rule relies on (masks of zeros and ones that
// exclude each other) it reads off the graph again, and the step looks at what
// may change, buffers and sizes, in forward.
//
// Left alone: parts that the result does not depend on (no network reads them);
// results in which the part is not whole.
#include "passes/transforms/HoldParts.h"

#include "passes/rules/Match.h"
#include "passes/rules/Support.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Holds.h"

#include <set>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A part of x, and the last value that has it unchanged.
struct Found {
  ValueId part = -1, whole = -1;
  size_t operand = 0; ///< of the part's node: x
};

class Search {
public:
  explicit Search(PassContext& context)
      : flow_(*context.method.graph, nullptr, context.model.module._ivalue()),
        rules_{flow_, context.options, context.model.module._ivalue()} {}
  /// In a block of an if or a loop.
  Search(const Search& outer, Block& block)
      : flow_(outer.flow_, block, [](ValueId) { return Surroundings(); }),
        rules_{flow_, outer.rules_.options, outer.rules_.self} {}

  std::vector<Found> run() {
    std::vector<Found> all;
    for (NodeId n = 0; n < NodeId(flow_.nodes().size()); ++n)
      if (auto found = lookAt(n))
        all.push_back(*found);
    return all;
  }

  const Dataflow& flow() const { return flow_; }

private:
  std::optional<Found> lookAt(NodeId n) {
    const NodeInfo& info = flow_.node(n);
    if (info.glue || info.results.size() != 1 || !info.node->kind().is_aten())
      return std::nullopt;
    for (const Candidate& c : candidatesOf(n, rules_)) {
      if (c.refused || c.solved.size() != 1 || c.elements.size() != 1 ||
          c.elements[0].isWhole())
        continue;
      Found found;
      found.part = info.results[0];
      found.whole = follow(n, found.part, c.solved[0], c.elements[0]);
      const Value* x = flow_.value(c.solved[0]).value;
      while (found.operand < info.node->inputs().size() &&
             info.node->input(found.operand) != x)
        ++found.operand;
      if (found.whole >= 0 && found.operand < info.node->inputs().size() &&
          !isHeld(found.whole, found.part))
        return found;
    }
    return std::nullopt;
  }

  /// Of the values that x leads to with the elements as they are, the last one
  /// that depends on the part; -1 if there is none.
  ValueId follow(NodeId part, ValueId w, ValueId x, const Elements& elements) {
    std::vector<ValueId> work{x};
    std::set<ValueId> unchanged;
    while (!work.empty()) {
      const ValueId at = work.back();
      work.pop_back();
      for (NodeId reader : flow_.value(at).readers) {
        const NodeInfo& info = flow_.node(reader);
        if (reader <= part || info.results.size() != 1 ||
            !flow_.value(info.results[0]).isActivation())
          continue;
        const auto same = unchangedBy(info.node, flow_.value(at).value, rules_);
        if (same && contains(*same, elements) &&
            unchanged.insert(info.results[0]).second)
          work.push_back(info.results[0]);
      }
    }
    return lastThatDependsOn(w, unchanged);
  }

  /// The last of the values that is computed from `w`; -1 if there is none.
  ValueId lastThatDependsOn(ValueId w, const std::set<ValueId>& values) const {
    if (values.empty())
      return -1;
    ValueId last = -1;
    std::vector<ValueId> work{w};
    std::unordered_set<ValueId> seen{w};
    while (!work.empty()) {
      const ValueId at = work.back();
      work.pop_back();
      if (values.count(at))
        last = std::max(last, at);
      for (NodeId reader : flow_.value(at).readers)
        for (ValueId result : flow_.node(reader).results)
          if (result <= *values.rbegin() && seen.insert(result).second)
            work.push_back(result);
    }
    return last;
  }

  bool isHeld(ValueId whole, ValueId part) const {
    for (NodeId reader : flow_.value(whole).readers) {
      Node* n = flow_.node(reader).node;
      if (n->kind() == holdsSymbol() && n->input(1) == flow_.value(part).value)
        return true;
    }
    return false;
  }

  Dataflow flow_;
  RuleContext rules_;
};

} // namespace

namespace {

/// Values of the graph: the part, and what it holds for.
struct Place {
  Value *part, *whole;
  size_t operand;
};

void collect(Search& search, std::vector<Place>& places) {
  const Dataflow& flow = search.flow();
  for (const Found& found : search.run())
    places.push_back({flow.value(found.part).value,
                      flow.value(found.whole).value, found.operand});
  for (const NodeInfo& info : flow.nodes())
    for (Block* block : info.node->blocks()) {
      Search inner(search, *block);
      collect(inner, places);
    }
}

} // namespace

bool holdParts(PassContext& context) {
  Graph& graph = *context.method.graph;
  Search search(context);
  std::vector<Place> all;
  collect(search, all);
  for (auto [part, whole, operand] : all) {
    // Behind what holds earlier parts of the same value.
    Node* behind = whole->node();
    while (behind->next()->kind() == holdsSymbol() &&
           behind->next()->input(0) == behind->output())
      behind = behind->next();
    whole = behind->output();
    WithInsertPoint guard(behind->next());
    Node* holds =
        createLike(behind, holdsSymbol(),
                   {whole, part, graph.insertConstant(int64_t(operand))});
    holds->output()->setType(whole->type());
    // The constant stands before it.
    graph.insertNode(holds);
    whole->replaceAllUsesAfterNodeWith(holds, holds->output());
  }
  return !all.empty();
}

} // namespace inv::opt
