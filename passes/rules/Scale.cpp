// Multiplying and dividing by a non-zero constant, neg, adding a constant or a
// parameter.
//
//   y = c * x  =>  x = y / c        y = x / c  =>  x = y * c
//   y = -x     =>  x = -y           y = x + p  =>  x = y - p
//
// Exact for neg and powers of two. Amplification 1/|c| for a product. A number
// that is an attribute of the module (a float that scripting kept) is measured
// by the step when it runs, since it may be set before training; one that the
// method computes is refused: that it is not zero is not shown
// ("scale-maybe-zero"). Tensors are family "product". Adding a parameter is
// exact up to rounding; that x is not the broadcast side is checked by the step
// at run time.
#include "inv/Abi.h"
#include "passes/rules/Match.h"
#include "passes/support/GraphRunner.h"

#include <cmath>

namespace inv::opt {

using namespace torch::jit;

namespace {

struct Operands {
  Value* x = nullptr;     ///< the activation
  Value* other = nullptr; ///< what it is combined with
};

/// For a commutative operator, which side is the activation.
Operands sides(const Dataflow& flow, Node* n) {
  Operands o{n->input(0), n->input(1)};
  const ValueId a = flow.idOf(n->input(0));
  const bool aIsActivation = a >= 0 && flow.value(a).isActivation();
  if (!aIsActivation)
    std::swap(o.x, o.other);
  return o;
}

/// The number that an attribute of the saved module has (`self.gamma`); it may
/// be set to another one before training.
std::optional<double> savedNumber(Value* v, const RuleContext& context) {
  if (!context.self.isObject() || v->node()->kind() != prim::GetAttr)
    return std::nullopt;
  const std::optional<c10::IValue> value = evaluateStatic(v, context.self);
  if (!value || !(value->isDouble() || value->isInt()))
    return std::nullopt;
  return value->isDouble() ? value->toDouble() : double(value->toInt());
}

/// The factor by which dividing by the number (multiplying with it) enlarges
/// errors, when the step runs.
std::function<Value*(InverseBuilder&)> growthBy(Value* c, bool multiply) {
  return [c, multiply](InverseBuilder& b) -> Value* {
    Graph& g = b.graph();
    Value* size =
        g.insert(aten::abs, {g.insert(aten::scalar_tensor, {b.operand(c)})});
    if (multiply)
      size = g.insert(aten::reciprocal, {size});
    Value* growth = size; // abi::growthOfScale, when the step runs
    for (int i = 1; i < abi::kScaleCounts; i++)
      growth =
          g.insert(aten::mul, {growth, g.insert(aten::clamp_min, {size, 1.0})});
    return growth;
  };
}

Candidate scaleBy(const RuleContext& context, Value* x, Value* c,
                  bool multiply) {
  const Dataflow& flow = context.flow;
  Candidate out;
  out.rule = "scale";
  out.cls = RuleClass::Scale;
  out.elementwise = true;
  out.solved = {flow.idOf(x)};
  std::optional<double> number = constantScalar(c);
  if (!number) {
    number = savedNumber(c, context);
    if (number)
      out.growth = growthBy(c, multiply);
  }
  if (!number) {
    out.refused = Reason::ScaleMaybeZero;
    out.detail = nameOf(c);
    return out;
  }
  if (*number == 0.0 || !std::isfinite(*number)) {
    out.refused = Reason::ScaleMaybeZero;
    out.detail = "the scale is " + std::to_string(*number);
    return out;
  }
  const double size = std::abs(*number);
  out.amplification = std::max(1.0, multiply ? 1.0 / size : size);
  out.emit = [c, multiply](InverseBuilder& b) -> std::vector<Value*> {
    Value* factor = b.operand(c);
    return {b.graph().insert(multiply ? aten::div : aten::mul,
                             {b.result(0), factor})};
  };
  return out;
}

} // namespace

void scaleRule(NodeId id, const RuleContext& context,
               std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (n->kind() == aten::neg) {
    Candidate c;
    c.rule = "neg";
    c.cls = RuleClass::Scale;
    c.elementwise = true;
    c.solved = {flow.idOf(n->input(0))};
    c.emit = [](InverseBuilder& b) -> std::vector<Value*> {
      return {b.graph().insert(aten::neg, {b.result(0)})};
    };
    if (flow.value(c.solved[0]).isActivation())
      out.push_back(c);
    return;
  }
  const bool product = n->kind() == aten::mul || n->kind() == aten::div;
  const bool sum = n->kind() == aten::add || n->kind() == aten::sub;
  if ((!product && !sum) || n->inputs().size() < 2)
    return;
  Operands o = n->kind() == aten::div || n->kind() == aten::sub
                   ? Operands{n->input(0), n->input(1)}
                   : sides(flow, n);
  const ValueId x = flow.idOf(o.x), other = flow.idOf(o.other);
  if (x < 0 || !flow.value(x).isActivation() || !isTensor(flow.value(x)))
    return;
  // div with a rounding mode is another operator.
  if (n->kind() == aten::div && n->inputs().size() > 2)
    return;
  if (product) {
    // Two tensors: family "product".
    const bool tensors =
        other >= 0 && isTensor(flow.value(other)) && !constantScalar(o.other);
    if (x != other && !tensors)
      out.push_back(scaleBy(context, o.x, o.other, n->kind() == aten::mul));
    return;
  }
  if (other < 0 || flow.value(other).isActivation())
    return; // two activations: family "sum"
  Value* alpha = n->inputs().size() > 2 ? n->input(2) : nullptr;
  if (alpha && o.x != n->input(0) && constantScalar(alpha) != 1.0)
    return; // p + alpha * x
  Candidate c;
  c.rule = "shift";
  c.cls = RuleClass::Scale;
  c.elementwise = true;
  c.solved = {x};
  if (isTensor(flow.value(other)))
    c.others = {other};
  const bool isAdd = n->kind() == aten::add;
  Value* shift = o.other;
  c.emit = [shift, alpha, isAdd](InverseBuilder& b) -> std::vector<Value*> {
    Graph& g = b.graph();
    Value* a = alpha ? b.operand(alpha) : g.insertConstant(1);
    // The overload for a number takes alpha by place, that for a tensor by
    // name.
    return {g.insert(isAdd ? aten::sub : aten::add,
                     {b.result(0), b.operand(shift)},
                     {NamedValue("alpha", a)})};
  };
  out.push_back(c);
}

} // namespace inv::opt
