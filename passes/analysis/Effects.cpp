#include "passes/analysis/Effects.h"

#include "passes/support/GraphUtil.h"
#include "passes/support/Holds.h"
#include "passes/support/Symbols.h"
#include "passes/support/Written.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// Random by what they do; PyTorch's own isNondeterministic() knows most of
/// them, but looks at `train` flags as well, which a user may flip later.
bool isRandom(const Node* n) {
  static const std::unordered_set<Symbol> kinds = {
      aten::dropout,
      aten::rand_like,
      aten::randn_like,
      aten::rand,
      aten::randn,
      aten::bernoulli,
      aten::normal,
      aten::rrelu,
      aten::multinomial,
      Symbol::fromQualString("aten::feature_dropout"),
      Symbol::fromQualString("aten::alpha_dropout"),
      Symbol::fromQualString("aten::feature_alpha_dropout"),
      Symbol::fromQualString("aten::native_dropout"),
      Symbol::fromQualString("aten::randint"),
      Symbol::fromQualString("aten::randint_like"),
      Symbol::fromQualString("aten::randperm"),
      Symbol::fromQualString("aten::poisson"),
      Symbol::fromQualString("aten::binomial"),
      Symbol::fromQualString("aten::_fused_dropout"),
      Symbol::fromQualString("aten::fractional_max_pool2d"),
  };
  if (kinds.count(n->kind()))
    return true;
  // Fused attention and the recurrent operators draw for their own dropout.
  static const Symbol attention =
      Symbol::fromQualString("aten::scaled_dot_product_attention");
  if (n->kind() == attention || n->kind() == aten::lstm ||
      n->kind() == aten::gru)
    return true;
  return n->isNondeterministic();
}

/// prim:: nodes that compute and do nothing else.
bool isPurePrim(const Node* n) {
  static const std::unordered_set<Symbol> kinds = {
      prim::Constant,
      prim::GetAttr,
      prim::ListConstruct,
      prim::ListUnpack,
      prim::TupleConstruct,
      prim::TupleUnpack,
      prim::TupleIndex,
      prim::TupleSlice,
      prim::DictConstruct,
      prim::NumToTensor,
      prim::If,
      prim::Loop,
      prim::dtype,
      prim::device,
      prim::is_cuda,
      prim::layout,
      prim::ConstantChunk,
      prim::unchecked_cast,
      prim::min,
      prim::max,
      Symbol::fromQualString("prim::data"),
      prim::requires_grad,
      Symbol::fromQualString("prim::unchecked_unwrap_optional"),
      Symbol::fromQualString("prim::RaiseException"),
      Symbol::fromQualString("prim::isinstance"),
      Symbol::fromQualString("prim::CreateObject"),
      Symbol::fromQualString("prim::is_cpu"),
      Symbol::fromQualString("prim::is_sparse"),
      Symbol::fromQualString("prim::shape"),
      Symbol::fromQualString("prim::TolistNode"),
      Symbol::fromQualString("prim::Uninitialized"),
  };
  return kinds.count(n->kind()) != 0;
}

EffectKind ofOneNode(const Node* n) {
  if (n->kind() == prim::RaiseException)
    return EffectKind::Assert;
  // Calls that the importer left are those of annotated modules: the user
  // states by the annotation that they may run again.
  if (n->kind() == prim::CallMethod)
    return EffectKind::Pure;
  if (n->kind().is_prim() && !isPurePrim(n))
    return EffectKind::Effect;
  if (writesInput(n))
    return EffectKind::Effect;
  // Run again later, it might read something else.
  if (n->kind() != prim::ListConstruct && n->kind() != prim::Loop &&
      std::any_of(n->inputs().begin(), n->inputs().end(),
                  isNumberContainerInFlux))
    return EffectKind::Effect;
  if (isRandom(n))
    return EffectKind::Random;
  if (isPurePrim(n))
    return EffectKind::Pure;
  const FunctionSchema* schema = n->maybeSchema();
  if (!schema)
    return EffectKind::Effect;
  static const Symbol ours = Symbol::fromQualString("inv::resplit").ns();
  static const Symbol internal = writtenSymbol().ns();
  if (n->kind() == aten::warn || n->kind() == prim::Print ||
      n->kind() == aten::manual_seed)
    return EffectKind::Effect;
  // What a step calls is not handed on: no object is a capture.
  if (sym::isStep(n->kind()))
    return EffectKind::Effect;
  // An operator of somebody else's library may do anything at all.
  const bool known = n->kind().is_aten() || n->kind().ns() == ours ||
                     n->kind().ns() == internal;
  return known ? EffectKind::Pure : EffectKind::Effect;
}

} // namespace

bool switchesContext(const Node* n) {
  return n->kind() == prim::Enter || n->kind() == prim::Exit ||
         n->kind() == sym::setGradEnabled();
}

bool writesInput(const Node* n) {
  const FunctionSchema* schema = n->maybeSchema();
  return schema && schema->is_mutable();
}

EffectKind effectOf(const Node* n) {
  EffectKind kind = ofOneNode(n);
  for (const Block* block : n->blocks())
    for (const Node* inner : block->nodes())
      kind = std::max(kind, effectOf(inner));
  return kind;
}

std::vector<Value*> scratchInputs(const Node* n) {
  static const Symbol instanceNorm = aten::instance_norm;
  if (n->kind() == aten::batch_norm || n->kind() == instanceNorm)
    return {n->namedInput("running_mean"), n->namedInput("running_var")};
  return {};
}

} // namespace inv::opt
