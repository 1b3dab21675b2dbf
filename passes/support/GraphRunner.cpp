#include "passes/support/GraphRunner.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "passes/analysis/Effects.h"

namespace inv::opt {

using namespace torch::jit;

namespace {

void runIf(const Node* n, ValueMap& env, const RunHooks& hooks) {
  const bool taken = env.at(n->input(0)).toBool();
  const Block* block = n->blocks().at(taken ? 0 : 1);
  runBlock(block, env, hooks);
  for (size_t i = 0; i < n->outputs().size(); ++i)
    env[n->output(i)] = env.at(block->outputs().at(i));
}

void runLoop(const Node* n, ValueMap& env, const RunHooks& hooks) {
  const Block* body = n->blocks().at(0);
  const int64_t trips = env.at(n->input(0)).toInt();
  bool go = env.at(n->input(1)).toBool();
  std::vector<c10::IValue> carried;
  for (size_t i = 2; i < n->inputs().size(); ++i)
    carried.push_back(env.at(n->input(i)));
  for (int64_t trip = 0; trip < trips && go; ++trip) {
    env[body->inputs().at(0)] = trip;
    for (size_t i = 0; i < carried.size(); ++i)
      env[body->inputs().at(i + 1)] = carried[i];
    runBlock(body, env, hooks);
    go = env.at(body->outputs().at(0)).toBool();
    for (size_t i = 0; i < carried.size(); ++i)
      carried[i] = env.at(body->outputs().at(i + 1));
  }
  for (size_t i = 0; i < carried.size(); ++i)
    env[n->output(i)] = carried[i];
}

/// In the plain interpreter: an executor would put autograd nodes of its own in
/// place of the operators'.
void runCallMethod(const Node* n, ValueMap& env) {
  Stack stack;
  for (const Value* in : n->inputs())
    stack.push_back(env.at(in));
  auto object = stack.front().toObject();
  Function& method = object->type()->getMethod(n->s(attr::name));
  auto graph = toGraphFunction(method).graph()->copy();
  Inline(*graph);
  InterpreterState(Code(graph, method.name())).run(stack);
  env[n->output()] = stack.back();
}

/// A typed list, as the interpreter makes it.
c10::IValue makeList(const c10::TypePtr& type, std::vector<c10::IValue> items) {
  const c10::TypePtr element =
      type->expectRef<c10::ListType>().getElementType();
  auto fill = [&](auto list) {
    for (const c10::IValue& item : items)
      list.push_back(item.to<typename decltype(list)::value_type>());
    return c10::IValue(std::move(list));
  };
  if (element->isSubtypeOf(*c10::TensorType::get()))
    return fill(c10::List<at::Tensor>());
  if (element->kind() == c10::TypeKind::IntType)
    return fill(c10::List<int64_t>());
  if (element->kind() == c10::TypeKind::FloatType)
    return fill(c10::List<double>());
  if (element->kind() == c10::TypeKind::BoolType)
    return fill(c10::List<bool>());
  c10::impl::GenericList list(element);
  for (c10::IValue& item : items)
    list.push_back(std::move(item));
  return list;
}

/// Constructions and unpackings, which are instructions of the interpreter and
/// no operators. False for any other node.
bool runContainer(const Node* n, ValueMap& env) {
  std::vector<c10::IValue> in;
  auto inputs = [&] {
    for (const Value* v : n->inputs())
      in.push_back(env.at(v));
  };
  auto spread = [&](auto&& items) {
    for (size_t i = 0; i < n->outputs().size(); ++i)
      env[n->output(i)] = items[i];
  };
  if (n->kind() == prim::ListConstruct) {
    inputs();
    env[n->output()] = makeList(n->output()->type(), std::move(in));
  } else if (n->kind() == prim::TupleConstruct) {
    inputs();
    env[n->output()] = c10::ivalue::Tuple::create(std::move(in));
  } else if (n->kind() == prim::ListUnpack) {
    const auto list = env.at(n->input()).toListRef().vec();
    TORCH_CHECK(list.size() == n->outputs().size(), "Expected ",
                n->outputs().size(), " elements in a list but found ",
                list.size());
    spread(list);
  } else if (n->kind() == prim::TupleUnpack) {
    const c10::IValue tuple = env.at(n->input());
    spread(tuple.toTupleRef().elements());
  } else if (n->kind() == prim::unchecked_cast) {
    env[n->output()] = env.at(n->input());
  } else {
    return false;
  }
  return true;
}

/// Nodes that are instructions of the interpreter (isinstance, SetAttr, ...):
/// a graph of one node.
void runInInterpreter(const Node* n, ValueMap& env) {
  auto graph = std::make_shared<Graph>();
  std::unordered_map<const Value*, Value*> inputs;
  Stack stack;
  for (const Value* in : n->inputs())
    if (!inputs.count(in)) {
      inputs[in] = graph->addInput()->setType(in->type());
      stack.push_back(env.at(in));
    }
  Node* copy = graph->insertNode(graph->createClone(
      const_cast<Node*>(n), [&](Value* v) { return inputs.at(v); }));
  for (Value* out : copy->outputs())
    graph->registerOutput(out);
  InterpreterState(Code(graph, "node")).run(stack);
  for (size_t i = 0; i < n->outputs().size(); ++i)
    env[n->output(i)] = std::move(stack.at(i));
}

/// `with object:`, such as torch.no_grad().
void runContext(const Node* n, ValueMap& env) {
  const bool enters = n->kind() == prim::Enter;
  const c10::IValue object = env.at(n->input(0));
  Stack stack{object};
  if (!enters)
    stack.resize(4); // no exception: type, value and traceback are None
  object.toObject()
      ->type()
      ->getMethod(enters ? "__enter__" : "__exit__")
      .run(stack);
  for (const Value* out : n->outputs())
    env[out] = stack.empty() ? c10::IValue() : stack.back();
}

void runNode(const Node* n, ValueMap& env, const RunHooks& hooks = {}) {
  if (hooks.instead && hooks.instead(n, env))
    return;
  if (n->kind() == prim::If)
    return runIf(n, env, hooks);
  if (n->kind() == prim::Loop)
    return runLoop(n, env, hooks);
  if (n->kind() == prim::Enter || n->kind() == prim::Exit)
    return runContext(n, env);
  if (n->kind() == prim::CallMethod)
    return runCallMethod(n, env);
  if (n->kind() == prim::GetAttr) {
    env[n->output()] = env.at(n->input()).toObject()->getAttr(n->s(attr::name));
    return;
  }
  if (n->kind() == prim::Constant) {
    auto constant = toIValue(n->output());
    env[n->output()] = constant ? *constant : c10::IValue();
    return;
  }
  if (runContainer(n, env))
    return;
  if (!n->maybeOperator())
    return runInInterpreter(n, env);
  Stack stack;
  for (const Value* in : n->inputs())
    stack.push_back(env.at(in));
  if (const FunctionSchema* schema = n->maybeSchema();
      schema && schema->is_vararg())
    stack.emplace_back(int64_t(n->inputs().size()));
  n->getOperation()(stack);
  const size_t count = n->outputs().size();
  for (size_t i = 0; i < count; ++i)
    env[n->output(i)] = std::move(stack.at(stack.size() - count + i));
}

} // namespace

void runOneNode(const Node* n, ValueMap& env) { runNode(n, env); }

void runBlock(const Block* block, ValueMap& env, const RunHooks& hooks) {
  if (hooks.begins)
    hooks.begins(block);
  for (const Node* n : block->nodes()) {
    runNode(n, env, hooks);
    if (hooks.after)
      hooks.after(n);
  }
  if (hooks.ended)
    hooks.ended(block);
}

std::vector<c10::IValue> runGraph(const Graph& graph,
                                  const std::vector<c10::IValue>& inputs,
                                  ValueMap* env, const RunHooks& hooks) {
  ValueMap local;
  ValueMap& values = env ? *env : local;
  for (size_t i = 0; i < graph.inputs().size(); ++i)
    values[graph.inputs()[i]] = inputs.at(i);
  runBlock(graph.block(), values, hooks);
  std::vector<c10::IValue> outputs;
  for (const Value* out : graph.outputs())
    outputs.push_back(values.at(out));
  return outputs;
}

namespace {

/// Adds to `env` the value of `v`, running what it needs first. False where it
/// needs anything but attributes and constants.
bool evaluateInto(const Value* v, const c10::IValue& self, ValueMap& env) {
  if (env.count(v))
    return true;
  const Node* n = v->node();
  if (n->kind() == prim::Param) {
    if (n->owningBlock() != n->owningGraph()->block() || v->offset() != 0 ||
        !v->type()->cast<c10::ClassType>())
      return false;
    env[v] = self;
    return true;
  }
  if (!n->blocks().empty() || n->kind() == prim::CallMethod ||
      effectOf(n) != EffectKind::Pure)
    return false;
  for (const Value* in : n->inputs())
    if (!evaluateInto(in, self, env))
      return false;
  runNode(n, env);
  return true;
}

} // namespace

std::optional<c10::IValue> evaluateStatic(const Value* v,
                                          const c10::IValue& self) {
  at::NoGradGuard noGrad;
  ValueMap env;
  if (!evaluateInto(v, self, env))
    return std::nullopt;
  return env.at(v);
}

} // namespace inv::opt
