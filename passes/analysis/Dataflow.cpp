#include "passes/analysis/Dataflow.h"

#include "passes/analysis/Saved.h"
#include "passes/support/GraphRunner.h"
#include "passes/support/Holds.h"
#include "passes/support/Symbols.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

std::string nameOf(const Value* v) { return "%" + v->debugName(); }

bool makesView(const Node* n) {
  static const std::unordered_set<std::string> names = {"view",
                                                        "view_as",
                                                        "reshape",
                                                        "reshape_as",
                                                        "permute",
                                                        "transpose",
                                                        "t",
                                                        "numpy_T",
                                                        "mT",
                                                        "mH",
                                                        "adjoint",
                                                        "unfold",
                                                        "hsplit",
                                                        "vsplit",
                                                        "dsplit",
                                                        "movedim",
                                                        "flatten",
                                                        "unflatten",
                                                        "slice",
                                                        "select",
                                                        "narrow",
                                                        "squeeze",
                                                        "unsqueeze",
                                                        "expand",
                                                        "expand_as",
                                                        "chunk",
                                                        "split",
                                                        "unbind",
                                                        "alias",
                                                        "tensor_split",
                                                        "detach",
                                                        "contiguous",
                                                        "diagonal",
                                                        "unsafe_chunk",
                                                        "unsafe_split",
                                                        "split_with_sizes"};
  return n->kind().is_aten() && names.count(n->kind().toUnqualString());
}

namespace {

bool isTensor(const Value* v) {
  return v->type()->isSubtypeOf(*c10::TensorType::get());
}

/// A list or tuple that holds tensors, or may (the indices of x[:, i]).
bool holdsTensors(const Value* v) {
  if (auto list = v->type()->cast<c10::ListType>())
    return list->getElementType()->isSubtypeOf(*c10::OptionalType::ofTensor());
  return v->type()->kind() == c10::TypeKind::TupleType;
}

bool isPack(const Node* n) {
  return (n->kind() == prim::ListConstruct ||
          n->kind() == prim::TupleConstruct) &&
         holdsTensors(n->output());
}

bool isUnpack(const Node* n) {
  return (n->kind() == prim::ListUnpack || n->kind() == prim::TupleUnpack) &&
         holdsTensors(n->input());
}

/// The unpacking that is the only user of the list or tuple `v`, or null.
Node* onlyUnpack(Value* v) {
  if (!holdsTensors(v) || v->uses().size() != 1)
    return nullptr;
  Node* user = v->uses().front().user;
  return isUnpack(user) && user->owningBlock() == v->node()->owningBlock()
             ? user
             : nullptr;
}

void collectFreeValues(const Node* n, std::vector<Value*>& out);

/// Values from outside that the block reads or hands on.
void collectFreeValues(const Block* block, std::vector<Value*>& out) {
  auto visit = [&](const Value* v) {
    for (const Block* b = v->node()->owningBlock(); b;
         b = b->owningNode() ? b->owningNode()->owningBlock() : nullptr)
      if (b == block)
        return;
    out.push_back(const_cast<Value*>(v));
  };
  for (const Node* inner : block->nodes()) {
    for (const Value* in : inner->inputs())
      visit(in);
    std::vector<Value*> deeper;
    collectFreeValues(inner, deeper);
    for (const Value* v : deeper)
      visit(v);
  }
  for (const Value* v : block->outputs())
    visit(v);
}

void collectFreeValues(const Node* n, std::vector<Value*>& out) {
  for (const Block* block : n->blocks())
    collectFreeValues(block, out);
}

/// Of their second operand these take the dtype or the sizes alone.
bool readsFirstOnly(const Node* n) {
  return n->kind() == aten::type_as || n->kind() == aten::expand_as ||
         n->kind() == aten::view_as || n->kind() == aten::reshape_as;
}

int64_t bytesOf(const c10::IValue& v) {
  return v.isTensor() && v.toTensor().defined() ? int64_t(v.toTensor().nbytes())
                                                : -1;
}

} // namespace

Dataflow::Dataflow(Graph& graph, const Samples* sampleValues, c10::IValue self)
    : block_(*graph.block()), samples_(sampleValues), self_(std::move(self)) {
  for (Value* in : graph.inputs())
    addValue(in, -1);
  fill();
  for (ValueInfo& v : values_) {
    v.keptAround = v.graphInput || v.graphOutput;
    v.there = v.graphOutput;
  }
}

Dataflow::Dataflow(const Dataflow& outer, Block& block, const Around& around)
    : block_(block), outer_(&outer), samples_(outer.samples_),
      self_(outer.self_) {
  for (Value* in : block.inputs())
    addValue(in, -1);
  std::vector<Value*> free;
  collectFreeValues(&block, free);
  for (Value* v : free)
    addOuter(v, around);
  fill();
  markHandedOn(around);
}

bool Dataflow::isLoop() const {
  return outer_ && block_.owningNode()->kind() == prim::Loop;
}

/// All but the inputs.
void Dataflow::fill() {
  for (Node* n : block_.nodes()) {
    addNode(n);
    nodes_.back().position = int32_t(nodes_.size()) - 1;
  }
  readSamples();
  if (isLoop())
    joinCarried();
  markContexts();
  fillReaders();
  fillSaved();
  markWrites();
}

/// Of a branch that was not taken nothing is known.
void Dataflow::readSamples() {
  const auto valueOf = [&](const ValueInfo& info) {
    const auto found = samples_->find(info.value);
    return found == samples_->end() ? nullptr : &found->second;
  };
  if (!samples_)
    return;
  shapesKnown_ =
      std::any_of(values_.begin(), values_.end(), [&](const ValueInfo& info) {
        return (info.def >= 0 || !outer_) && isTensor(info.value) &&
               valueOf(info);
      });
  for (ValueInfo& info : values_) {
    const c10::IValue* value = valueOf(info);
    if (!value || !shapesKnown_)
      continue;
    info.bytes = bytesOf(*value);
    if (info.bytes < 0)
      continue;
    info.sizes = value->toTensor().sizes().vec();
    info.dtype = value->toTensor().scalar_type();
  }
}

void Dataflow::addValue(Value* v, NodeId def) {
  const ValueId id = ValueId(values_.size());
  valueIds_[v] = id;
  ValueInfo info;
  info.value = v;
  info.def = def;
  info.storage = info.canonical = id;
  info.graphInput = def < 0;
  if (info.graphInput && (isTensor(v) || holdsTensors(v)))
    info.origin = Origin::Activation;
  values_.push_back(std::move(info));
}

/// What the block reads of its surroundings is an input of it.
void Dataflow::addOuter(Value* v, const Around& around) {
  if (valueIds_.count(v))
    return;
  if (v->node()->kind() == prim::ListConstruct ||
      v->node()->kind() == prim::TupleConstruct)
    for (Value* element : v->node()->inputs())
      addOuter(element, around);
  const ValueId id = ValueId(values_.size());
  addValue(v, -1);
  ValueInfo& info = values_.back();
  const ValueId known = outer_->idOf(v);
  TORCH_INTERNAL_ASSERT(known >= 0, "%", v->debugName(),
                        " is not known around the block that reads it");
  const ValueInfo& there = outer_->value(known);
  info.origin = there.origin;
  info.asksGradient = there.asksGradient;
  info.fixed = there.fixed;
  // What is one outside is one inside.
  info.storage = sameStorage_.insert({there.storage, id}).first->second;
  info.canonical = sameValue_.insert({there.canonical, id}).first->second;
  if (outer_->isWrittenBeside(known, block_.owningNode()))
    writers_[info.storage].push_back(-1);
  if (!info.isActivation())
    return;
  // Each iteration reads it again.
  const Surroundings now = isLoop() ? Surroundings{true, true} : around(known);
  info.keptAround = now.keptAround;
  info.there = now.there;
}

/// Somebody else than `node` may write the value's storage.
bool Dataflow::isWrittenBeside(ValueId v, const Node* node) const {
  const auto found = writers_.find(storage(v));
  return found != writers_.end() &&
         std::any_of(found->second.begin(), found->second.end(),
                     [&](NodeId n) { return n < 0 || nodes_[n].node != node; });
}

/// What an iteration hands on is what the next one is given.
void Dataflow::joinCarried() {
  for (size_t i = 1; i < block_.outputs().size(); ++i) {
    const ValueId out = valueIds_.at(block_.outputs()[i]);
    const ValueId in = valueIds_.at(block_.inputs()[i]);
    const ValueId from = values_[out].storage, to = values_[in].storage;
    // Not what lies around the loop.
    if (!values_[out].isActivation() || from == to ||
        outer_->idOf(values_[from].value) >= 0)
      continue;
    for (ValueInfo& v : values_)
      if (v.storage == from)
        v.storage = to;
  }
}

void Dataflow::markHandedOn(const Around& around) {
  const size_t first = isLoop() ? 1 : 0; // behind the condition
  for (size_t i = first; i < block_.outputs().size(); ++i) {
    const ValueId out = valueIds_.at(block_.outputs()[i]);
    const ValueId result = outer_->idOf(block_.owningNode()->output(i - first));
    if (outer_->isWrittenBeside(result, block_.owningNode()))
      for (ValueInfo& v : values_)
        v.writtenInPlace |= v.storage == values_[out].storage;
    ValueInfo& value = values_[out];
    if (!value.isActivation())
      continue;
    const Surroundings now =
        isLoop() ? Surroundings{value.keptAround, false} : around(result);
    value.keptAround |= now.keptAround;
    // Handed on twice, it is claimed where one of the two is.
    value.unclaimed =
        !value.keptAround && !now.there && (value.unclaimed || !value.there);
    value.there = true;
  }
}

void Dataflow::addNode(Node* n) {
  const NodeId id = NodeId(nodes_.size());
  nodeIds_[n] = id;
  for (Value* out : n->outputs())
    addValue(out, id);
  nodes_.emplace_back();
  NodeInfo& info = nodes_.back();
  info.node = n;
  info.effect = effectOf(n);
  info.view = makesView(n);
  info.glue = isPack(n) || (isUnpack(n) && onlyUnpack(n->input()) == n &&
                            n->input()->node()->kind() != prim::Param);
  resolveOperands(info);
  classify(info);
  resolveResults(info);
  findStorages(info);
}

void Dataflow::resolveOperands(NodeInfo& info) {
  std::vector<Value*> raw(info.node->inputs().begin(),
                          info.node->inputs().end());
  collectFreeValues(info.node, raw);
  for (Value* v : raw) {
    if (isPack(v->node()) && valueIds_.count(v) && !info.glue) {
      for (Value* element : v->node()->inputs())
        info.operands.push_back(valueIds_.at(element));
      continue;
    }
    auto found = valueIds_.find(v);
    if (found != valueIds_.end())
      info.operands.push_back(found->second);
  }
}

void Dataflow::resolveResults(NodeInfo& info) {
  if (info.glue && isUnpack(info.node)) {
    // These are the results of the node that made the list.
    const NodeId maker = nodeIds_.at(info.node->input()->node());
    nodes_[maker].results.clear();
    for (Value* out : info.node->outputs()) {
      ValueInfo& v = values_[valueIds_.at(out)];
      v.def = maker;
      nodes_[maker].results.push_back(valueIds_.at(out));
    }
    findStorages(nodes_[maker]);
    return;
  }
  for (Value* out : info.node->outputs())
    info.results.push_back(valueIds_.at(out));
}

/// The attribute is a tensor of the saved module that asks for no gradient.
bool Dataflow::isBuffer(const Node* read) const {
  if (!self_.isObject())
    return false;
  const auto value = evaluateStatic(read->output(), self_);
  return value && value->isTensor() && value->toTensor().defined() &&
         !value->toTensor().requires_grad();
}

void Dataflow::classify(NodeInfo& info) {
  Origin origin = Origin::Derived;
  if (info.node->kind() == prim::GetAttr)
    origin = Origin::Parameter;
  else if (info.node->kind() == prim::Constant)
    origin = Origin::Constant;
  if (info.effect == EffectKind::Random)
    origin = Origin::Activation;
  const bool firstOnly = readsFirstOnly(info.node);
  for (size_t i = 0; i < info.operands.size(); ++i)
    if (values_[info.operands[i]].isActivation() && !(firstOnly && i > 0) &&
        info.node->kind() != prim::GetAttr)
      origin = Origin::Activation;
  for (Value* out : info.node->outputs())
    if (isTensor(out) || holdsTensors(out))
      values_[valueIds_.at(out)].origin = origin;
}

void Dataflow::findStorages(NodeInfo& info) {
  const Node* n = info.node;
  if (n->kind() == sym::resplit()) {
    // Operands: the parts, then the scalars.
    size_t parts = 0;
    while (parts < info.operands.size() &&
           isTensor(values_[info.operands[parts]].value))
      ++parts;
    for (size_t i = 0; i < info.results.size() && i < parts; ++i) {
      if (!isTensor(values_[info.results[i]].value))
        return;
      values_[info.results[i]].canonical = values_[info.operands[i]].canonical;
      values_[info.results[i]].storage = values_[info.operands[i]].storage;
    }
    return;
  }
  const bool view = info.view || n->kind() == holdsSymbol();
  if (!view || info.operands.empty())
    return;
  for (ValueId out : info.results)
    if (isTensor(values_[out].value))
      values_[out].storage = values_[info.operands.front()].storage;
}

/// What stands in a `with` block runs in its context alone: neither again nor
/// elsewhere. Under torch.no_grad() nothing asks for gradients.
void Dataflow::markContexts() {
  std::vector<bool> withoutGrad; // of the open contexts
  bool switched = false;
  for (NodeInfo& info : nodes_) {
    if (info.node->kind() == prim::Enter)
      withoutGrad.push_back(info.node->input(0)->type()->repr_str().find(
                                "no_grad") != std::string::npos);
    else if (info.node->kind() == prim::Exit && !withoutGrad.empty())
      withoutGrad.pop_back();
    switched |= info.node->kind() == sym::setGradEnabled();
    if (withoutGrad.empty() && !switched)
      continue;
    const bool fixed = info.node->kind() == prim::Constant ||
                       info.node->kind() == prim::GetAttr || info.glue;
    if (!fixed)
      info.effect = EffectKind::Effect;
    info.withoutGrad = std::find(withoutGrad.begin(), withoutGrad.end(),
                                 true) != withoutGrad.end();
  }
}

void Dataflow::fillReaders() {
  for (NodeId n = 0; n < NodeId(nodes_.size()); ++n) {
    if (nodes_[n].glue && isPack(nodes_[n].node) &&
        !nodes_[n].node->output()->uses().empty()) {
      // The elements are read by those who read the list; a list that is an
      // output of the method makes its elements outputs.
      bool escapes = false;
      for (const Use& use : nodes_[n].node->output()->uses())
        escapes |= use.user->kind() == prim::Return;
      for (ValueId v : nodes_[n].operands)
        values_[v].graphOutput |= escapes;
      continue;
    }
    if (nodes_[n].glue)
      continue;
    for (ValueId v : nodes_[n].operands)
      if (values_[v].readers.empty() || values_[v].readers.back() != n)
        values_[v].readers.push_back(n);
  }
  // A pack inside a pack, or one handed to an unpack of its own, is not looked
  // through above: count it as a reader of everything it holds.
  for (NodeId n = 0; n < NodeId(nodes_.size()); ++n) {
    if (!nodes_[n].glue || !isPack(nodes_[n].node))
      continue;
    for (const Use& use : nodes_[n].node->output()->uses()) {
      auto user = nodeIds_.find(use.user);
      if (user != nodeIds_.end() && nodes_[user->second].glue)
        for (ValueId v : nodes_[n].operands)
          values_[v].graphOutput = true;
    }
  }
  for (Value* out : block_.outputs()) {
    auto found = valueIds_.find(out);
    if (found != valueIds_.end())
      values_[found->second].graphOutput = true;
  }
}

/// Lists: one of their elements does.
bool Dataflow::asksGradient(const Value* v) const {
  if (isPack(v->node()))
    return std::any_of(v->node()->inputs().begin(), v->node()->inputs().end(),
                       [&](const Value* in) { return asksGradient(in); });
  auto found = valueIds_.find(v);
  return found != valueIds_.end() && values_[found->second].asksGradient;
}

/// As far as its type, or dtype on the samples, goes.
bool Dataflow::mayAskGradient(const Value* v) const {
  if (!isTensor(v))
    return holdsTensors(v);
  const auto& dtype = values_[valueIds_.at(v)].dtype;
  return !dtype || c10::isFloatingType(*dtype) || c10::isComplexType(*dtype);
}

/// Forward over the nodes: which values ask for gradients, and what that makes
/// each node keep.
void Dataflow::fillSaved() {
  for (ValueInfo& v : values_)
    if (!outer_ || outer_->idOf(v.value) < 0)
      v.asksGradient =
          v.graphInput && v.isActivation() && mayAskGradient(v.value);
  const AsksGradient asks = [this](const Value* v) { return asksGradient(v); };
  for (NodeInfo& info : nodes_) {
    const Saved saved = savedBy(info.node, asks);
    info.savedKnown = saved.known;
    bool asked = false;
    if (info.withoutGrad && info.node->kind() != prim::GetAttr)
      asked = false;
    else if (info.node->kind() == prim::GetAttr)
      asked = !isBuffer(info.node);
    else if (info.node->kind() == prim::CallMethod ||
             !info.node->blocks().empty())
      asked = true; // may read parameters
    else if (saved.differentiable)
      for (size_t i = 0; i < info.operands.size(); ++i)
        asked |= values_[info.operands[i]].asksGradient &&
                 !(readsFirstOnly(info.node) && i > 0);
    bool makesTensor = false;
    for (Value* out : info.node->outputs()) {
      ValueInfo& v = values_[valueIds_.at(out)];
      makesTensor |= isTensor(out) || holdsTensors(out);
      v.asksGradient = asked && mayAskGradient(out);
      v.fixed =
          v.origin != Origin::NonTensor && !v.isActivation() && !v.asksGradient;
    }
    // What makes no tensor has no derivative: a check of a shape, a size.
    if (info.glue || !asked || !makesTensor)
      continue;
    keepSaved(info, saved);
  }
}

void Dataflow::keepSaved(NodeInfo& info, const Saved& saved) {
  auto keep = [&](ValueId v) {
    if (values_[v].isActivation() && isTensor(values_[v].value) &&
        std::find(info.saved.begin(), info.saved.end(), v) == info.saved.end())
      info.saved.push_back(v);
  };
  for (Value* v : saved.values) {
    auto found = valueIds_.find(v);
    if (found == valueIds_.end())
      continue;
    if (isTensor(v))
      keep(found->second);
    else if (isPack(v->node()))
      for (Value* element : v->node()->inputs())
        if (valueIds_.count(element))
          keep(valueIds_.at(element));
  }
  if (!saved.known || !info.node->blocks().empty())
    for (ValueId v : info.operands)
      keep(v);
  if (!saved.own)
    return;
  info.savedOwn = 1;
  if (shapesKnown_ && !info.results.empty())
    info.savedOwn = std::max<int64_t>(values_[info.results[0]].bytes, 0);
}

void Dataflow::markWrites() {
  for (NodeId n = 0; n < NodeId(nodes_.size()); ++n) {
    const NodeInfo& info = nodes_[n];
    if (!writesInput(info.node) && info.node->blocks().empty())
      continue;
    if (info.effect != EffectKind::Effect)
      continue;
    // Without looking closer: any activation that an effectful node reads may
    // be what it writes.
    for (ValueId v : info.operands)
      if (values_[v].isActivation())
        writers_[values_[v].storage].push_back(n);
  }
  for (ValueInfo& v : values_)
    v.writtenInPlace = writers_.count(v.storage) != 0;
}

ValueId Dataflow::idOf(const Value* v) const {
  auto found = valueIds_.find(v);
  return found == valueIds_.end() ? -1 : found->second;
}

NodeId Dataflow::idOf(const Node* n) const {
  auto found = nodeIds_.find(n);
  return found == nodeIds_.end() ? -1 : found->second;
}

NodeId Dataflow::topLevel(const Node* n) const {
  while (n && idOf(n) < 0) {
    const Block* block = n->owningBlock();
    n = block ? block->owningNode() : nullptr;
  }
  return n ? idOf(n) : -1;
}

int64_t Dataflow::weight(ValueId v) const {
  if (!shapesKnown_)
    return 1;
  const int64_t own = values_[values_[v].storage].bytes;
  return own > 0 ? own : std::max<int64_t>(values_[v].bytes, 0);
}

NodeId Dataflow::lastReader(ValueId v) const {
  return values_[v].readers.empty() ? -1 : values_[v].readers.back();
}

bool Dataflow::comesFrom(ValueId v, ValueId input) const {
  auto [at, fresh] = comesFrom_.try_emplace(input);
  std::vector<bool>& from = at->second;
  if (fresh) {
    from.resize(values_.size());
    from[size_t(input)] = true;
    for (const NodeInfo& n : nodes_) {
      const bool any =
          std::any_of(n.operands.begin(), n.operands.end(), [&](ValueId o) {
            return values_[o].isActivation() && from[size_t(o)];
          });
      if (any)
        for (ValueId out : n.results)
          from[size_t(out)] = true;
    }
  }
  return from[size_t(v)];
}

} // namespace inv::opt
