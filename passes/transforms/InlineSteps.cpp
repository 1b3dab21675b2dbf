// Replaces every step by the plain nodes that it was made from.
//
// The way back: a model whose steps were inlined has no inv:: operator, loads
// without libinv_runtime.so, and gives the same outputs and gradients.
//
//   %s = inv::coupling(%step, [%x], [%z], [%w], (%n,))
//   %y, %z1 = prim::ListUnpack(%s)
//                ==>
//   ... conditioner(%step, %z, %w, %n), giving %aux
//   ... function(%step, %x, %aux), giving %y          readers of %z1 read %z
//
//   %l = inv::resplit(%parts, %d, "chunk", [%2], %e)
//                ==>
//   %c = aten::cat(%parts, %d)
//   %l = aten::chunk(%c, %2, %e)
//
//   %p = inv::as_piece(%x, %d, %n, %m)   ==>  %x      (a piece of %c again)
//
// Why it is sound: these are the definitions of the operators (Abi.h); what a
// step does beyond its definition is to save less. An as_piece is the identity
// on values, and the piece behind it has its old strides again, because every
// resplit has become the copy and the split that it stands for.
//
// Steps that are left without a reader are removed from the module. Left alone:
// nothing. A step whose operands do not have the form that form-steps writes
// (lists made in place) is an error.
#include "passes/transforms/InlineSteps.h"

#include "inv/Abi.h"
#include "passes/Passes.h"
#include "passes/support/Error.h"
#include "passes/support/GraphUtil.h"
#include "passes/transforms/LowerLists.h"
#include "passes/transforms/MergeReads.h"

#include <string>
#include <vector>

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Values = std::vector<Value*>;

bool isKind(const Node* node, const char* name) {
  return node->kind() == c10::Symbol::fromQualString(name);
}

bool isStep(const Node* node) {
  return isKind(node, abi::kCoupling) || isKind(node, abi::kBijection) ||
         isKind(node, abi::kCheckpoint);
}

[[noreturn]] void malformed(const Node* node, const std::string& what) {
  throw Error(ExitCode::BadInput,
              "cannot inline " + std::string(node->kind().toQualString()) +
                  " (%" + node->output()->debugName() + "): " + what);
}

/// A step operator's node, taken apart.
class StepCall {
public:
  StepCall(Node* node, const Module& module) : node_(node) {
    step_ = node->input(0);
    type_ = step_->type()->cast<c10::ClassType>();
    if (!type_)
      malformed(node, "its first operand is not a module");
    if (auto path = attributePath(step_); path && module.hasattr(*path))
      object_ = module.attr(*path);
    const bool coupling = isKind(node, abi::kCoupling);
    const bool checkpoint = isKind(node, abi::kCheckpoint);
    size_t next = 1;
    if (!checkpoint)
      xs_ = elements(next++);
    if (coupling || checkpoint)
      zs_ = elements(next++);
    captures_ = elements(next++);
    extras_ = spread(node->input(next));
  }

  /// Inserts the plain nodes at the insert point. Returns the values that the
  /// operator's list holds.
  Values inlineHere() {
    Values results;
    if (isKind(node_, abi::kBijection)) {
      results = call(abi::kFunction, {xs_, captures_, extras_});
    } else {
      const auto numAux =
          isKind(node_, abi::kCheckpoint) ? 0 : integer(abi::kNumAux);
      Values made = call(abi::kConditioner, {zs_, captures_, extras_});
      if (static_cast<int64_t>(made.size()) < numAux)
        malformed(node_, "its conditioner returns too little");
      const Values aux(made.begin(), made.begin() + numAux);
      const Values sides(made.begin() + numAux, made.end());
      if (isKind(node_, abi::kCoupling))
        results = call(abi::kFunction,
                       {xs_, aux, pick(captures_, abi::kFunctionCaptures),
                        pick(extras_, abi::kFunctionExtras)});
      results.insert(results.end(), sides.begin(), sides.end());
    }
    results.insert(results.end(), zs_.begin(), zs_.end());
    return results;
  }

private:
  Values elements(size_t operand) const {
    Value* list = node_->input(operand);
    if (list->node()->kind() != prim::ListConstruct) {
      auto constant = toIValue(list);
      if (constant && constant->isList() && constant->toListRef().empty())
        return {};
      malformed(node_, "operand " + std::to_string(operand) +
                           " is not a list made in place");
    }
    const auto inputs = list->node()->inputs();
    return Values(inputs.begin(), inputs.end());
  }

  /// The elements of the tuple of extras; none for None.
  Values spread(Value* extras) const {
    if (isNone(extras))
      return {};
    if (extras->node()->kind() == prim::TupleConstruct) {
      const auto inputs = extras->node()->inputs();
      return Values(inputs.begin(), inputs.end());
    }
    if (!extras->type()->cast<c10::TupleType>())
      malformed(node_, "its extras are not a tuple");
    Graph* graph = node_->owningGraph();
    Node* unpack = graph->insertNode(graph->createTupleUnpack(extras));
    return Values(unpack->outputs().begin(), unpack->outputs().end());
  }

  Values call(const char* name, const std::vector<Values>& arguments) const {
    Function* method = type_->findMethod(name);
    if (!method)
      malformed(node_, std::string("its step has no method ") + name);
    Values inputs{step_};
    for (const Values& group : arguments)
      inputs.insert(inputs.end(), group.begin(), group.end());
    auto callee = toGraphFunction(*method).graph();
    if (callee->inputs().size() != inputs.size())
      malformed(node_, std::string(name) + " takes " +
                           std::to_string(callee->inputs().size()) +
                           " arguments, but is given " +
                           std::to_string(inputs.size()));
    Graph* graph = node_->owningGraph();
    Values outputs = insertGraph(*graph, *callee, inputs);
    if (outputs.size() != 1 || !outputs[0]->type()->cast<c10::TupleType>())
      return outputs;
    if (outputs[0]->node()->kind() == prim::TupleConstruct) {
      const auto parts = outputs[0]->node()->inputs();
      return Values(parts.begin(), parts.end());
    }
    Node* unpack = graph->insertNode(graph->createTupleUnpack(outputs[0]));
    return Values(unpack->outputs().begin(), unpack->outputs().end());
  }

  c10::IValue constant(const char* name) const {
    if (auto found = type_->findConstant(name))
      return *found;
    if (object_.isObject() && object_.toObjectRef().type()->hasAttribute(name))
      return object_.toObjectRef().getAttr(name);
    malformed(node_, std::string("its step has no constant ") + name);
  }

  int64_t integer(const char* name) const {
    const c10::IValue value = constant(name);
    if (!value.isInt())
      malformed(node_, std::string(name) + " is not an int");
    return value.toInt();
  }

  Values pick(const Values& from, const char* name) const {
    const c10::IValue value = constant(name);
    if (!value.isList())
      malformed(node_, std::string(name) + " is not a list");
    Values picked;
    for (const c10::IValue& element : value.toListRef()) {
      const int64_t index = element.isInt() ? element.toInt() : -1;
      if (index < 0 || index >= static_cast<int64_t>(from.size()))
        malformed(node_, std::string(name) + " has an index out of range");
      picked.push_back(from[index]);
    }
    return picked;
  }

  Node* node_;
  Value* step_;
  c10::ClassTypePtr type_;
  c10::IValue object_;
  Values xs_, zs_, captures_, extras_;
};

/// The readers of the operator's list read `results`.
void handOver(Node* node, const Values& results) {
  const std::vector<Use> uses = node->output()->uses();
  for (const Use& use : uses) {
    Node* unpack = use.user;
    if (unpack->kind() != prim::ListUnpack)
      continue;
    if (unpack->outputs().size() != results.size())
      malformed(node,
                "it gives " + std::to_string(results.size()) + " values, but " +
                    std::to_string(unpack->outputs().size()) + " are read");
    for (size_t i = 0; i < results.size(); ++i)
      replaceValue(unpack->output(i), results[i]);
    unpack->destroy();
  }
  if (!node->hasUses())
    return;
  Graph* graph = node->owningGraph();
  Node* list =
      graph->insertNode(graph->createList(c10::TensorType::get(), results));
  node->output()->replaceAllUsesWith(list->output());
}

/// The only element of a list of ints.
Value* onlyElement(Node* node, Value* list) {
  Graph* graph = node->owningGraph();
  if (list->node()->kind() == prim::ListConstruct &&
      list->node()->inputs().size() == 1)
    return list->node()->input();
  auto values = constantInts(list);
  if (!values || values->size() != 1)
    malformed(node, "its arguments are not one int");
  return graph->insertConstant((*values)[0]);
}

void expandResplit(Node* node) {
  auto how = toIValue(node->input(2));
  if (!how || !how->isString())
    malformed(node, "the kind of split is not a constant");
  std::string name = how->toStringRef();
  Value* args = node->input(3);
  if (name == abi::kTensorSplitSections || name == "chunk" || name == "split")
    args = onlyElement(node, args);
  else if (name != "split_with_sizes" && name != "tensor_split")
    malformed(node, "unknown kind of split '" + name + "'");
  if (name == abi::kTensorSplitSections)
    name = "tensor_split";
  Graph* graph = node->owningGraph();
  Node* cat = createLike(node, aten::cat, {node->input(0), node->input(1)});
  graph->insertNode(cat);
  Node* split = createLike(node, c10::Symbol::fromQualString("aten::" + name),
                           {cat->output(), args, node->input(4)});
  split->output()->setType(c10::ListType::ofTensors());
  graph->insertNode(split);
  replaceValue(node->output(), split->output());
}

bool isNeeds(const Node* node) {
  return std::string(node->kind().toQualString()).rfind(abi::kNeedsPrefix, 0) ==
         0;
}

/// Whether some node of the graph reads the root's attribute `name`.
bool readsAttribute(Graph& graph, const std::string& name) {
  for (Node* node : allNodes(graph.block()))
    if (node->kind() == prim::GetAttr && node->s(attr::name) == name &&
        node->input() == graph.inputs()[0])
      return true;
  return false;
}

bool isUnderCompilation(const Model& model, const std::string& name) {
  for (const Method& method : model.methods)
    if (method.name == name)
      return true;
  return false;
}

} // namespace

int removeUnusedSteps(Model& model) {
  auto type = model.module.type();
  std::vector<std::string> unused;
  for (size_t i = 0; i < type->numAttributes(); ++i) {
    const std::string name = type->getAttributeName(i);
    if (name.rfind(abi::kStepPrefix, 0) != 0)
      continue;
    bool read = false;
    for (const Method& method : model.methods)
      read |= readsAttribute(*method.graph, name);
    for (Function* function : type->methods())
      if (!isUnderCompilation(model, function->name()))
        read |= readsAttribute(*toGraphFunction(*function).graph(), name);
    if (!read)
      unused.push_back(name);
  }
  for (const std::string& name : unused) {
    // The object first: it finds the slot through its class.
    model.module._ivalue()->unsafeRemoveAttr(name);
    type->unsafeRemoveAttribute(name);
  }
  return static_cast<int>(unused.size());
}

bool inlineSteps(PassContext& ctx) {
  Graph& graph = *ctx.method.graph;
  auto collect = [&](auto wanted) {
    std::vector<Node*> found;
    for (Node* node : allNodes(graph.block()))
      if (wanted(node))
        found.push_back(node);
    return found;
  };
  const std::vector<Node*> steps = collect(isStep);
  for (Node* node : steps) {
    WithInsertPoint guard(node);
    handOver(node, StepCall(node, ctx.model.module).inlineHere());
    node->destroy();
  }
  // Behind the steps: their conditioners hold such operators, too.
  const std::vector<Node*> others = collect([](const Node* node) {
    return isKind(node, abi::kResplit) || isKind(node, abi::kAsPiece) ||
           isNeeds(node);
  });
  for (Node* node : others) {
    WithInsertPoint guard(node);
    if (isKind(node, abi::kResplit))
      expandResplit(node);
    else if (isKind(node, abi::kAsPiece))
      replaceValue(node->output(), node->input(0));
    node->destroy();
  }
  if (steps.empty() && others.empty())
    return false;
  removeDeadNodes(graph);
  lowerLists(graph);
  mergeReads(graph);
  removeUnusedSteps(ctx.model);
  return true;
}

} // namespace inv::opt
