// A state in which the input of its own network is left unchanged
// (transforms/HoldParts).
//
//   h = holds(y, part)     y = h      part = part's own operator on h
//
// part is m * x, x[:, indices], ... and y has x's elements where part reads
// them: y = x * exp((1 - m) * s(m * x)) + (1 - m) * t(m * x). Exact. Masks may
// be set to others, so the step compares in forward what it would give back.
// Not matched: anything else; HoldParts says where the operator stands.
#include "passes/rules/Match.h"
#include "passes/support/Holds.h"

namespace inv::opt {

using namespace torch::jit;

namespace {

using Lookup = InverseBuilder::Lookup;

/// part's operator, on `whole` in the place of the tensor that it read.
Value* runAgain(Graph& g, Node* holds, Value* whole, const Lookup& at) {
  Node* maker = holds->input(1)->node();
  const Value* x = heldOperand(holds);
  const std::function<Value*(Value*)> operand = [&](Value* v) -> Value* {
    if (v == x)
      return whole;
    if (auto constant = toIValue(v))
      return g.insertConstant(*constant);
    if (v->node()->kind() != prim::ListConstruct)
      return at(v);
    std::vector<Value*> elements;
    for (Value* element : v->node()->inputs())
      elements.push_back(operand(element));
    const auto type = v->type()->expect<c10::ListType>()->getElementType();
    return g.insertNode(g.createList(type, elements))->output();
  };
  std::vector<Value*> operands;
  for (Value* v : maker->inputs())
    operands.push_back(operand(v));
  Node* again = g.insertNode(g.create(maker->kind(), operands));
  again->output()->setType(c10::TensorType::get());
  return again->output();
}

} // namespace

void heldRule(NodeId id, const RuleContext& context,
              std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (n->kind() != holdsSymbol())
    return;
  Value* whole = n->input(0);
  Value* part = n->input(1);
  Candidate c;
  c.rule = "held";
  c.cls = RuleClass::Free;
  c.solved = {flow.idOf(whole), flow.idOf(part)};
  c.needsSizes = true;
  std::vector<Value*> operands(part->node()->inputs().begin(),
                               part->node()->inputs().end());
  for (size_t i = 0; i < operands.size(); ++i) {
    Value* v = operands[i];
    if (v->node()->kind() == prim::ListConstruct)
      operands.insert(operands.end(), v->node()->inputs().begin(),
                      v->node()->inputs().end());
    else if (v != heldOperand(n) && flow.idOf(v) >= 0 &&
             isTensor(flow.value(flow.idOf(v))))
      c.others.push_back(flow.idOf(v));
  }
  c.emit = [n](InverseBuilder& b) -> std::vector<Value*> {
    Value* y = b.result(0);
    return {y,
            runAgain(b.graph(), n, y, [&b](Value* v) { return b.operand(v); })};
  };
  c.growth = [n, whole, part](InverseBuilder& b) {
    const auto compare = [&](Graph& g, const Lookup& at) {
      Value* y = g.insert(aten::detach, {at(whole)});
      Value* again = g.insert(aten::type_as, {runAgain(g, n, y, at), at(part)});
      Value* same =
          g.insert(Symbol::fromQualString("aten::equal"), {again, at(part)});
      return g.insert(aten::scalar_tensor, {g.insert(aten::Int, {same})});
    };
    return b.recorded(part, "unchanged", compare);
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
