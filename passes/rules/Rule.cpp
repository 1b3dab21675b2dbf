#include "passes/rules/Rule.h"

namespace inv::opt {

const char* nameOf(RuleClass cls) {
  switch (cls) {
  case RuleClass::Free:
    return "free";
  case RuleClass::Sum:
    return "sum";
  case RuleClass::Product:
    return "product";
  case RuleClass::Scale:
    return "scale";
  case RuleClass::Annotated:
    return "annotated";
  case RuleClass::Solve:
    return "solve";
  case RuleClass::Pointwise:
    return "pointwise";
  case RuleClass::Normalisation:
    return "normalisation";
  }
  return "";
}

const std::vector<RuleFamily>& allRules() {
  static const std::vector<RuleFamily> rules = {
#define RULE(name, function, sentence) {name, function, sentence},
#include "passes/rules/Rules.def"
#undef RULE
  };
  return rules;
}

std::optional<Reason> arithmeticProblem(const ValueInfo& x,
                                        const ValueInfo& y) {
  if (!x.dtype || !y.dtype)
    return std::nullopt;
  if (x.sizes != y.sizes)
    return Reason::Broadcast;
  if (!c10::isFloatingType(*x.dtype))
    return Reason::NoAutograd;
  if (*x.dtype != c10::kFloat && *x.dtype != c10::kDouble)
    return Reason::LowPrecision;
  return std::nullopt;
}

const std::vector<Candidate>& candidatesOf(NodeId n,
                                           const RuleContext& context) {
  auto [at, fresh] = context.candidates.try_emplace(n);
  if (fresh)
    for (const RuleFamily& family : allRules())
      family.candidates(n, context, at->second);
  return at->second;
}

} // namespace inv::opt
