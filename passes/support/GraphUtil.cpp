// See GraphUtil.h.
#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <cctype>

#include <torch/csrc/jit/ir/constants.h>

#include <fmt/format.h>

namespace inv::opt {

using namespace torch::jit;

std::optional<int64_t> constantInt(const Value* value) {
  auto constant = toIValue(value);
  if (!constant || !constant->isInt())
    return std::nullopt;
  return constant->toInt();
}

std::optional<std::vector<int64_t>> constantInts(Value* value) {
  if (auto constant = toIValue(value)) {
    if (!constant->isIntList())
      return std::nullopt;
    return constant->toIntVector();
  }
  if (value->node()->kind() != prim::ListConstruct || !isOnlyRead(value))
    return std::nullopt;
  std::vector<int64_t> result;
  for (const Value* input : value->node()->inputs()) {
    auto element = constantInt(input);
    if (!element)
      return std::nullopt;
    result.push_back(*element);
  }
  return result;
}

std::optional<bool> constantBool(const Value* value) {
  auto constant = toIValue(value);
  if (!constant || !constant->isBool())
    return std::nullopt;
  return constant->toBool();
}

std::optional<double> constantNumber(const Value* value) {
  auto constant = toIValue(value);
  if (!constant)
    return std::nullopt;
  if (constant->isDouble())
    return constant->toDouble();
  if (constant->isInt())
    return static_cast<double>(constant->toInt());
  return std::nullopt;
}

bool isNone(const Value* value) {
  auto constant = toIValue(value);
  return constant && constant->isNone();
}

bool writesOperand(const Node* node) {
  const auto* schema = node->maybeSchema();
  return schema && schema->is_mutable();
}

bool updatesStatistics(const Node* node) {
  // Operands: input, weight, bias, running_mean, running_var, training or
  // use_input_stats, ...
  const bool batch = node->kind() == aten::batch_norm ||
                     node->kind() == c10::Symbol::fromQualString(
                                         "aten::_batch_norm_impl_index");
  if (!batch && node->kind() != aten::instance_norm)
    return false;
  if (node->inputs().size() < 6 || isNone(node->input(3)))
    return false;
  return constantBool(node->input(5)).value_or(true);
}

bool isOptionalTensor(const c10::TypePtr& type) {
  auto optional = type->cast<c10::OptionalType>();
  return optional &&
         optional->getElementType()->isSubtypeOf(*c10::TensorType::get());
}

bool mayHoldTensor(const c10::TypePtr& type) {
  switch (type->kind()) {
  case c10::TypeKind::IntType:
  case c10::TypeKind::FloatType:
  case c10::TypeKind::ComplexType:
  case c10::TypeKind::BoolType:
  case c10::TypeKind::StringType:
  case c10::TypeKind::NoneType:
  case c10::TypeKind::NumberType:
  case c10::TypeKind::DeviceObjType:
  case c10::TypeKind::StreamObjType:
  case c10::TypeKind::ScalarTypeType:
  case c10::TypeKind::LayoutType:
  case c10::TypeKind::MemoryFormatType:
  case c10::TypeKind::GeneratorType:
  case c10::TypeKind::FunctionType:
    return false;
  case c10::TypeKind::ListType:
  case c10::TypeKind::OptionalType:
  case c10::TypeKind::TupleType:
  case c10::TypeKind::DictType: {
    auto inner = type->containedTypes();
    return std::any_of(inner.begin(), inner.end(), mayHoldTensor);
  }
  default:
    return true;
  }
}

bool isOnlyRead(const Value* list) {
  for (const Use& use : list->uses()) {
    if (use.user->kind() == prim::ListUnpack)
      continue;
    const auto* schema = use.user->maybeSchema();
    if (!schema || use.offset >= schema->arguments().size())
      return false;
    const auto* alias = schema->arguments()[use.offset].alias_info();
    if (alias && alias->isWrite())
      return false;
    // A result that may be the list itself could be written through.
    for (const auto& result : schema->returns())
      if (result.type()->kind() == c10::TypeKind::ListType &&
          result.alias_info() && alias)
        return false;
  }
  return true;
}

bool isNumberContainerInFlux(const Value* container) {
  const auto kind = container->type()->kind();
  const bool isContainer =
      kind == c10::TypeKind::ListType || kind == c10::TypeKind::DictType;
  if (!isContainer || mayHoldTensor(container->type()) ||
      container->node()->kind() == prim::Constant)
    return false;
  const auto& uses = container->uses();
  return std::any_of(uses.begin(), uses.end(), [](const Use& use) {
    const Node* user = use.user;
    if (const auto* schema = user->maybeSchema();
        schema && use.offset < schema->arguments().size()) {
      const auto* alias = schema->arguments()[use.offset].alias_info();
      return alias && alias->isWrite();
    }
    // Goes on under another name.
    const bool inside = user->owningBlock()->owningNode() != nullptr;
    return user->kind() == prim::Loop || user->kind() == prim::ListConstruct ||
           user->kind() == prim::DictConstruct ||
           user->kind() == prim::SetAttr ||
           (user->kind() == prim::Return && inside);
  });
}

Node* ancestorIn(Node* node, const Block* block) {
  while (node && node->owningBlock() != block)
    node = node->owningBlock()->owningNode();
  return node;
}

std::optional<std::string> attributePath(Value* value) {
  std::vector<std::string> names;
  while (value->node()->kind() == prim::GetAttr) {
    names.push_back(value->node()->s(attr::name));
    value = value->node()->input();
  }
  const auto inputs = value->owningGraph()->inputs();
  if (names.empty() || inputs.empty() || value != inputs[0])
    return std::nullopt;
  std::string path;
  for (auto name = names.rbegin(); name != names.rend(); ++name)
    path += (path.empty() ? "" : ".") + *name;
  return path;
}

static void collect(Block* block, std::vector<Node*>& nodes) {
  for (Node* node : block->nodes()) {
    nodes.push_back(node);
    for (Block* inner : node->blocks())
      collect(inner, nodes);
  }
}

std::string attributeName(const Value* value) {
  std::string name;
  for (; value->node()->kind() == prim::GetAttr;
       value = value->node()->input()) {
    const std::string& part = value->node()->s(attr::name);
    name = name.empty() ? part : fmt::format("{}_{}", part, name);
    if (part.empty() || !std::isdigit(static_cast<unsigned char>(part[0])))
      return name;
  }
  return name.empty() ? name : "item_" + name;
}

std::vector<Node*> allNodes(Block* block) {
  std::vector<Node*> nodes;
  collect(block, nodes);
  return nodes;
}

Node* createLike(Node* like, c10::Symbol kind, at::ArrayRef<Value*> inputs,
                 size_t outputs) {
  Node* node = like->owningGraph()->create(kind, inputs, outputs);
  node->setSourceRange(like->sourceRange());
  node->setScope(like->scope());
  if (auto stack = like->callstack())
    node->setCallStack(*stack);
  return node;
}

void replaceValue(Value* from, Value* to) {
  if (from->hasDebugName() && !to->hasDebugName() &&
      to->node()->kind() != prim::Param) {
    const std::string name = from->debugName();
    from->setDebugName("");
    to->setDebugName(name);
  }
  from->replaceAllUsesWith(to);
}

/// Whether the node does anything beside computing its outputs, blocks aside.
/// A node without outputs (SetAttr among them) is there for what it does.
static bool hasEffect(Node* node) {
  if (node->outputs().empty() || node->kind() == prim::Loop ||
      node->hasSideEffects() || writesOperand(node) ||
      updatesStatistics(node) || node->isNondeterministic())
    return true;
  // An operator that is not known may do anything.
  return !node->kind().is_prim() && !node->maybeSchema();
}

static bool isRemovable(Node* node) {
  if (node->hasUses() || hasEffect(node))
    return false;
  for (Block* block : node->blocks())
    for (Node* inner : allNodes(block))
      if (hasEffect(inner))
        return false;
  return true;
}

static bool removeDeadIn(Block* block) {
  bool changed = false;
  for (auto it = block->nodes().rbegin(); it != block->nodes().rend();) {
    Node* node = *it;
    ++it;
    for (Block* inner : node->blocks())
      changed |= removeDeadIn(inner);
    if (isRemovable(node)) {
      node->destroy();
      changed = true;
    }
  }
  return changed;
}

bool removeDeadNodes(Graph& graph) { return removeDeadIn(graph.block()); }

bool hoistAttributeReads(Graph& graph) {
  std::vector<Node*> reads;
  bool writes = false;
  std::function<void(Block*, bool)> collect = [&](Block* block, bool nested) {
    for (Node* n : block->nodes()) {
      writes |= n->kind() == prim::SetAttr;
      if (nested && n->kind() == prim::GetAttr)
        reads.push_back(n);
      for (Block* inner : n->blocks())
        collect(inner, true);
    }
  };
  collect(graph.block(), false);
  if (writes || reads.empty())
    return false;
  Node* first = *graph.nodes().begin();
  bool moved = false;
  for (Node* n : reads) {
    // Its object must be there at the top: the module itself, or a read that
    // was moved (or stands) there.
    const Node* object = n->input()->node();
    const bool atTop = object->kind() == prim::Param
                           ? object->owningBlock() == graph.block()
                           : object->kind() == prim::GetAttr;
    if (!atTop)
      continue;
    if (object->kind() == prim::GetAttr && object->isAfter(first))
      n->moveAfter(const_cast<Node*>(object));
    else
      n->moveBefore(first);
    moved = true;
  }
  return moved;
}

} // namespace inv::opt
