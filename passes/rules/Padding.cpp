// Padding, of any mode: the values stay, with others around them.
//
//   y = constant_pad_nd(x, pads), pad(x, pads, mode),
//       reflection_pad, replication_pad          x = y without the pads
//
// Exact. Pads are non-negative; those that are no constants the step looks at
// in forward. Refused: a negative pad, which cuts values off
// ("not-invertible").
#include "passes/rules/Match.h"

#include <string>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

/// Negative pads cut off.
static const Symbol kCrop = Symbol::fromQualString("aten::constant_pad_nd");

void paddingRule(NodeId id, const RuleContext& context,
                 std::vector<Candidate>& out) {
  static const std::unordered_set<std::string> names = {
      "constant_pad_nd",   "pad",
      "reflection_pad1d",  "reflection_pad2d",
      "reflection_pad3d",  "replication_pad1d",
      "replication_pad2d", "replication_pad3d"};
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (!n->kind().is_aten() || !names.count(n->kind().toUnqualString()))
    return;
  const ValueId x = flow.idOf(n->input(0));
  if (x < 0 || !flow.value(x).isActivation())
    return;
  Candidate c;
  c.rule = "padding";
  c.cls = RuleClass::Free;
  c.solved = {x};
  c.resizes = true;
  if (auto numbers = constantInts(n->input(1))) {
    for (int64_t& pad : *numbers) {
      if (pad < 0) {
        c.refused = Reason::NotInvertible;
        c.detail = "a negative pad";
        c.quiet = true;
      }
      pad = -pad;
    }
    c.emit = [back = *numbers](InverseBuilder& b) {
      return std::vector<Value*>{b.graph().insert(kCrop, {b.result(0), back})};
    };
    out.push_back(std::move(c));
    return;
  }
  Node* list = n->input(1)->node();
  if (list->kind() != prim::ListConstruct)
    return;
  const std::vector<Value*> pads(list->inputs().begin(), list->inputs().end());
  c.emit = [pads](InverseBuilder& b) {
    Graph& g = b.graph();
    std::vector<Value*> back;
    back.reserve(pads.size());
    for (Value* pad : pads)
      back.push_back(g.insert(aten::neg, {b.operand(pad)}));
    Value* all =
        g.insertNode(g.createList(c10::IntType::get(), back))->output();
    return std::vector<Value*>{g.insert(kCrop, {b.result(0), all})};
  };
  c.growth = [pads](InverseBuilder& b) {
    Graph& g = b.graph();
    Value* fine = nullptr;
    for (Value* pad : pads) {
      Value* one =
          g.insert(aten::Int, {g.insert(aten::ge, {b.operand(pad), 0})});
      fine = fine ? g.insert(aten::mul, {fine, one}) : one;
    }
    return g.insert(aten::scalar_tensor, {fine});
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
