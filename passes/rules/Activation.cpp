// Strictly monotone activations.
//
//   leaky_relu(x, s), s > 0    leaky_relu(y, 1/s)
//   prelu(x, w), w > 0         prelu(y, 1/w)
//   elu, selu, celu            log1p on the negative side
//   softplus(x, beta)          y + log(-expm1(-beta y)) / beta
//   log_sigmoid                y - log(-expm1(y))
//   sigmoid, tanh, atan        logit, atanh, tan
//   logit, atanh               sigmoid, tanh
//   sinh, asinh                asinh, sinh
//   exp, log, expm1, log1p     log, exp, log1p, expm1
//   softsign                   y / (1 - |y|)
//
// Closed forms: Abramowitz & Stegun, chapter 4; softplus so that neither exp
// overflows nor log cancels. Many of them saturate: far out, y says little or
// nothing about x. Errors grow by 1 / f'(x), which is known from y; the step
// measures it in forward. They are left alone without --saturating.
// Not matched: relu, gelu, silu (not monotone or not strictly), a slope that is
// not a positive constant, elu with scales other than constants, softplus with
// a threshold below 20 (its two pieces then overlap), logit with a bound.
#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

#include <ATen/ops/gt.h>
#include <ATen/ops/isfinite.h>

#include <cmath>
#include <string>
#include <unordered_map>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// A builder of expressions over one graph.
struct Code {
  Graph& g;
  Value* operator()(const char* name, std::initializer_list<Value*> in) const {
    std::vector<NamedValue> arguments(in.begin(), in.end());
    return g.insert(Symbol::fromQualString(std::string("aten::") + name),
                    arguments);
  }
  Value* number(double v) const { return g.insertConstant(v); }
};

/// An expression in y.
using Expression = std::function<Value*(const Code&, Value*)>;

struct Activation {
  Expression inverse;
  /// f'(x), where it comes close to zero or depends on x.
  Expression slope;
  /// max 1 / f'(x), where there is no `slope`.
  double amplification = 1.0;
};

/// One operator of ATen.
Expression oneOperator(const char* name) {
  return [name](const Code& code, Value* y) { return code(name, {y}); };
}

/// y = scale * (x > 0 ? x : alpha * (exp(x * rate) - 1)), alpha, scale > 0:
/// elu, selu, celu.
Activation exponentialUnit(double alpha, double scale, double rate) {
  Activation a;
  a.inverse = [=](const Code& code, Value* y) {
    Value* unscaled = code("div", {y, code.number(scale)});
    Value* negative = code("clamp_max", {unscaled, code.number(0.0)});
    Value* back = code(
        "div", {code("log1p", {code("div", {negative, code.number(alpha)})}),
                code.number(rate)});
    Value* isPositive = code("gt", {y, code.number(0.0)});
    return code("where", {isPositive, unscaled, back});
  };
  // scale where x > 0, else scale * alpha * rate * exp(rate * x)
  a.slope = [=](const Code& code, Value* y) {
    Value* left = code("mul", {code("add", {y, code.number(scale * alpha),
                                            code.g.insertConstant(1)}),
                               code.number(rate)});
    return code("where", {code("gt", {y, code.number(0.0)}),
                          code("full_like", {y, code.number(scale)}), left});
  };
  return a;
}

Value* oneMinus(const Code& code, Value* y) {
  return code("rsub", {y, code.number(1.0), code.g.insertConstant(1)});
}

const std::unordered_map<std::string, Activation>& plainOnes() {
  static const std::unordered_map<std::string, Activation> table = {
      {"sigmoid",
       {oneOperator("logit"),
        [](const Code& code, Value* y) {
          return code("mul", {y, oneMinus(code, y)});
        }}},
      {"tanh",
       {oneOperator("atanh"),
        [](const Code& code, Value* y) {
          return oneMinus(code, code("mul", {y, y}));
        }}},
      {"atan",
       {oneOperator("tan"),
        [](const Code& code, Value* y) {
          return code("square", {code("cos", {y})});
        }}},
      {"sinh", {oneOperator("asinh"), {}}},
      {"asinh",
       {oneOperator("sinh"),
        [](const Code& code, Value* y) {
          return code("reciprocal", {code("cosh", {y})});
        }}},
      // The slopes of these two are 1 at least.
      {"logit", {oneOperator("sigmoid"), {}}},
      {"atanh", {oneOperator("tanh"), {}}},
      {"softsign",
       {[](const Code& code, Value* y) {
          return code("div", {y, oneMinus(code, code("abs", {y}))});
        },
        [](const Code& code, Value* y) {
          return code("square", {oneMinus(code, code("abs", {y}))});
        }}},
      {"log_sigmoid",
       {[](const Code& code, Value* y) {
          Value* rest = code("neg", {code("expm1", {y})});
          return code("sub", {y, code("log", {rest})});
        },
        [](const Code& code, Value* y) {
          return code("neg", {code("expm1", {y})});
        }}},
      {"expm1",
       {oneOperator("log1p"),
        [](const Code& code, Value* y) {
          return code("add", {y, code.number(1.0), code.g.insertConstant(1)});
        }}},
      {"log1p",
       {oneOperator("expm1"),
        [](const Code& code, Value* y) {
          return code("exp", {code("neg", {y})});
        }}},
      {"exp", {oneOperator("log"), [](const Code&, Value* y) { return y; }}},
      {"log",
       {oneOperator("exp"),
        [](const Code& code, Value* y) {
          return code("exp", {code("neg", {y})});
        }}},
  };
  return table;
}

std::optional<Activation> ofLeakyRelu(const Node* n, std::string& why) {
  const std::optional<double> slope = constantScalar(n->input(1));
  if (!slope || !(*slope > 0.0) || !std::isfinite(*slope)) {
    why = "the slope is not a positive constant";
    return std::nullopt;
  }
  Activation a;
  a.amplification = std::max(1.0, 1.0 / *slope);
  a.inverse = [s = *slope](const Code& code, Value* y) {
    return code("leaky_relu", {y, code.number(1.0 / s)});
  };
  return a;
}

/// elu(x, alpha, scale, input_scale) and celu(x, alpha).
std::optional<Activation> ofExponentialUnit(const Node* n, bool isCelu,
                                            std::string& why) {
  double factors[3] = {1.0, 1.0, 1.0};
  for (size_t i = 1; i < n->inputs().size() && i < 4; ++i) {
    const std::optional<double> factor = constantScalar(n->input(i));
    if (!factor || !(*factor > 0.0) || !std::isfinite(*factor)) {
      why = "a factor is not a positive constant";
      return std::nullopt;
    }
    factors[i - 1] = *factor;
  }
  if (isCelu)
    return exponentialUnit(factors[0], 1.0, 1.0 / factors[0]);
  return exponentialUnit(factors[0], factors[1], factors[2]);
}

std::optional<Activation> ofSoftplus(const Node* n, std::string& why) {
  const std::optional<double> beta = constantScalar(n->input(1));
  const std::optional<double> threshold = constantScalar(n->input(2));
  if (!beta || !(*beta > 0.0) || !std::isfinite(*beta) || !threshold ||
      *threshold < 20.0) {
    why = "beta is not a positive constant, or the threshold is below 20";
    return std::nullopt;
  }
  Activation a;
  // Beyond the threshold y is x, and the sum below is y to the last bit.
  a.inverse = [beta = *beta](const Code& code, Value* y) {
    Value* scaled = code("mul", {y, code.number(-beta)});
    Value* rest = code("neg", {code("expm1", {scaled})});
    return code("add",
                {y, code("div", {code("log", {rest}), code.number(beta)})});
  };
  a.slope = [beta = *beta](const Code& code, Value* y) {
    Value* scaled = code("mul", {y, code.number(-beta)});
    return code("neg", {code("expm1", {scaled})});
  };
  return a;
}

/// prelu with a weight that is positive in the saved model; measured again by
/// the step.
std::optional<Candidate> preluCandidate(Node* n, const RuleContext& context) {
  Value* weight = n->input(1);
  const ValueId w = context.flow.idOf(weight);
  if (w < 0 || context.flow.value(w).isActivation())
    return std::nullopt;
  Candidate c;
  const auto saved = savedValue(weight, context);
  if (!saved || saved->numel() == 0 ||
      !at::isfinite(*saved).all().item<bool>() ||
      !at::gt(*saved, 0).all().item<bool>()) {
    c.refused = Reason::NotInvertible;
    c.detail = saved ? "the slope is not positive everywhere" : nameOf(weight);
    return c;
  }
  c.others = {w};
  c.amplification = std::max(1.0, 1.0 / saved->min().item<double>());
  c.emit = [weight](InverseBuilder& b) {
    Graph& g = b.graph();
    Value* back = g.insert(aten::reciprocal, {b.operand(weight)});
    return std::vector<Value*>{g.insert(aten::prelu, {b.result(0), back})};
  };
  // Also 1 where all slopes are larger: the positive side is unchanged.
  c.growth = [weight](InverseBuilder& b) {
    Graph& g = b.graph();
    return g.insert(aten::reciprocal,
                    {g.insert(aten::min, {b.operand(weight)})});
  };
  return c;
}

/// Nothing where `n` is no activation of the table; `why` is set where it is
/// one with arguments that do not fit.
std::optional<Activation> activationOf(const Node* n, std::string& why) {
  if (!n->kind().is_aten())
    return std::nullopt;
  const std::string name = n->kind().toUnqualString();
  if (auto found = plainOnes().find(name); found != plainOnes().end())
    return n->inputs().size() == 1 || (name == "logit" && isNone(n->input(1)))
               ? std::optional(found->second)
               : std::nullopt;
  if (name == "leaky_relu")
    return ofLeakyRelu(n, why);
  if (name == "elu" || name == "celu")
    return ofExponentialUnit(n, name == "celu", why);
  if (name == "selu") // Klambauer et al., 2017
    return exponentialUnit(1.6732632423543772, 1.0507009873554805, 1.0);
  if (name == "softplus")
    return ofSoftplus(n, why);
  return std::nullopt;
}

} // namespace

void activationRule(NodeId id, const RuleContext& context,
                    std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (n->inputs().empty() || n->outputs().size() != 1)
    return;
  std::string why;
  const std::optional<Activation> found = activationOf(n, why);
  const std::optional<Candidate> prelu =
      n->kind() == aten::prelu ? preluCandidate(n, context) : std::nullopt;
  if ((!found && !prelu && why.empty()) ||
      (found && found->slope && !context.options.saturating))
    return;
  const ValueId x = flow.idOf(n->input(0));
  if (x < 0 || !flow.value(x).isActivation() || !isTensor(flow.value(x)))
    return;
  Candidate c = prelu ? *prelu : Candidate{};
  c.rule = "activation";
  c.cls = RuleClass::Pointwise;
  c.elementwise = true;
  c.solved = {x};
  if (prelu) {
    out.push_back(std::move(c));
    return;
  }
  if (!found) {
    c.refused = Reason::NotInvertible;
    c.detail = why;
    out.push_back(std::move(c));
    return;
  }
  c.amplification = found->amplification;
  c.emit = [inverse = found->inverse](InverseBuilder& b) {
    return std::vector<Value*>{inverse(Code{b.graph()}, b.result(0))};
  };
  if (found->slope)
    c.growth = [slope = found->slope](InverseBuilder& b) {
      const Code code{b.graph()};
      return code("reciprocal", {code("min", {slope(code, b.result(0))})});
    };
  out.push_back(std::move(c));
}

} // namespace inv::opt
