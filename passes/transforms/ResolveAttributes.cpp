// Part of canonicalize. Numbers, flags and strings of the module that decide
// what the code looks like.
//
//   %odd = prim::GetAttr[name="odd"](%self)   %odd = GetAttr[name="odd"](%self)
//   %y = prim::If(%odd)                       %other = aten::ne(%odd, %true)
//     block0():                                = prim::If(%other)
//       %a = ...                      ==>       block0():
//       -> (%a)                                   = prim::RaiseException(...)
//     block1():                                   -> ()
//       %b = ...                                block1():
//       -> (%b)                                   -> ()
//                                             %a = ...
//
// Scripting keeps `self.odd` an attribute unless it was declared Final, and the
// branches around a coupling, the length of a list of groups, and which of them
// a loop takes all hang on such attributes.
//
// Why it is sound. The saved model holds a value, and no code of the model
// writes an attribute of that name. But a user may: so the method compares the
// attribute with that value first, and raises where it is another one. It is
// never wrong without a word.
//
// Resolved is an attribute only if an `if`, the number of trips of a loop over
// the elements of a list, the number of pieces of a split or the place in a
// list follows from it (and from constants and other such attributes) alone;
// then all reads of it. Any other number stays what it was: an attribute that
// can be changed between calls.
//
// Left alone: `training`, which train() and eval() change; attributes that some
// method writes; optional ones; an `if` that only raises, so that a model's own
// checks, and those written here, stay checks.
#include "passes/transforms/ResolveAttributes.h"

#include "passes/support/GraphRunner.h"
#include "passes/support/GraphUtil.h"
#include "passes/transforms/LowerLists.h"
#include "passes/transforms/UnrollLoops.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

namespace inv::opt {

using namespace torch::jit;

std::set<std::string> writtenAttributes(const PassContext& context) {
  std::set<std::string> written;
  const auto scan = [&](Graph& graph) {
    for (Node* n : allNodes(graph.block()))
      if (n->kind() == prim::SetAttr)
        written.insert(n->s(attr::name));
  };
  scan(*context.method.graph);
  std::set<c10::ClassTypePtr> types{context.model.module.type()};
  for (const Module& m : context.model.module.modules())
    types.insert(m.type());
  for (Node* n : allNodes(context.method.graph->block()))
    for (const Value* out : n->outputs())
      if (auto type = out->type()->cast<ClassType>())
        types.insert(type);
  for (const auto& type : types)
    for (Function* f : type->methods())
      if (auto* code = tryToGraphFunction(*f))
        scan(*code->graph());
  return written;
}

namespace {

bool isPlain(const c10::TypePtr& type) {
  switch (type->kind()) {
  case c10::TypeKind::IntType:
  case c10::TypeKind::FloatType:
  case c10::TypeKind::BoolType:
  case c10::TypeKind::StringType:
    return true;
  default:
    return false;
  }
}

bool onlyRaises(Node* n) {
  const auto isCheck = [](Node* inner) {
    return inner->kind() == prim::RaiseException;
  };
  if (n->kind() != prim::If || !n->outputs().empty())
    return false;
  bool raises = false;
  for (Block* block : n->blocks()) {
    const auto inside = allNodes(block);
    raises |= std::any_of(inside.begin(), inside.end(), isCheck);
  }
  return raises;
}

/// Values that decide what the code looks like.
std::vector<Value*> decidingValues(Graph& graph) {
  std::vector<Value*> out;
  for (Node* n : allNodes(graph.block())) {
    if (n->kind() == prim::If && !onlyRaises(n))
      out.push_back(n->input(0));
    else if (n->kind() == prim::Loop && readsElements(n))
      out.push_back(n->input(0));
    else if (isSplit(n) ||
             (n->kind() == aten::__getitem__ &&
              n->output()->type()->isSubtypeOf(*c10::TensorType::get())))
      out.push_back(n->input(1));
  }
  // `self.training and self.odd` is an `if` of its own.
  for (size_t i = 0; i < out.size(); ++i)
    if (Node* n = out[i]->node(); n->kind() == prim::If)
      for (Block* block : n->blocks())
        out.push_back(block->outputs().at(out[i]->offset()));
  return out;
}

using Attributes = std::map<std::string, Node*>; ///< one read for each path

/// Finds the attributes that a value is computed from; false where it is
/// computed from anything but these and constants.
class Leaves {
public:
  explicit Leaves(const std::set<std::string>& written) : written_(written) {}

  bool collect(Value* v, Attributes& reads) {
    Node* n = v->node();
    if (n->kind() == prim::Constant)
      return true;
    if (n->kind() == prim::GetAttr) {
      const std::string& name = n->s(attr::name);
      const auto path = attributePath(v);
      if (!path || !isPlain(v->type()) || name == "training" ||
          written_.count(name) != 0)
        return false;
      reads.insert({*path, n});
      return true;
    }
    if (n->kind() == prim::Param || !n->blocks().empty() ||
        n->hasSideEffects() || n->isNondeterministic() || writesOperand(n))
      return false;
    const bool list = n->kind() == prim::ListConstruct;
    if ((!list && !isPlain(v->type())) || mayHoldTensor(v->type()))
      return false;
    return std::all_of(n->inputs().begin(), n->inputs().end(),
                       [&](Value* in) { return collect(in, reads); });
  }

private:
  const std::set<std::string>& written_;
};

std::string asText(const c10::IValue& value) {
  if (value.isBool())
    return value.toBool() ? "True" : "False";
  if (value.isInt())
    return std::to_string(value.toInt());
  if (value.isDouble())
    return fmt::format("{}", value.toDouble());
  return fmt::format("'{}'", value.toStringRef());
}

/// Reads the attribute of that path at the insert point.
Value* insertRead(Graph& graph, const std::string& path) {
  Value* object = graph.inputs().at(0);
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('.', at), path.size());
    object = graph.insertGetAttr(object, path.substr(at, end - at));
    at = end + 1;
  }
  return object;
}

/// The method raises where the attribute is no longer what it was. At the
/// insert point.
void insertCheck(Graph& graph, const std::string& path,
                 const c10::IValue& value) {
  Value* now = insertRead(graph, path);
  Value* other = graph.insert(aten::ne, {now, graph.insertConstant(value)});
  Node* check = graph.insertNode(graph.create(prim::If, {other}, 0));
  check->addBlock();
  check->addBlock();
  WithInsertPoint inside(check->blocks()[0]->return_node());
  graph.insert(
      prim::RaiseException,
      {fmt::format("{0} decides which code the method runs, and was {1} when "
                   "inv-opt rewrote it: set it before, and rewrite the model "
                   "again",
                   path, asText(value))});
}

} // namespace

bool resolveAttributes(PassContext& context,
                       const std::set<std::string>& written) {
  Graph& graph = *context.method.graph;
  Attributes found;
  for (Value* v : decidingValues(graph)) {
    Attributes reads;
    if (Leaves(written).collect(v, reads))
      found.insert(reads.begin(), reads.end());
  }
  std::map<std::string, c10::IValue> values;
  for (const auto& [path, read] : found) {
    auto value = evaluateStatic(read->output(), context.model.module._ivalue());
    const bool isNan =
        value && value->isDouble() && value->toDouble() != value->toDouble();
    if (!value || isNan)
      continue;
    values.insert({path, *value});
    context.remarks.analysis(
        read, fmt::format("{} is taken to stay {}: the method raises where it "
                          "is changed",
                          path, asText(*value)));
  }
  for (Node* n : allNodes(graph.block())) {
    if (n->kind() != prim::GetAttr)
      continue;
    const auto path = attributePath(n->output());
    const auto value = path ? values.find(*path) : values.end();
    if (value == values.end())
      continue;
    WithInsertPoint at(n->next());
    n->output()->replaceAllUsesWith(graph.insertConstant(value->second));
  }
  WithInsertPoint top(*graph.nodes().begin());
  for (const auto& [path, value] : values)
    insertCheck(graph, path, value);
  return !values.empty();
}

} // namespace inv::opt
