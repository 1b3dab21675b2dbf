#include "passes/transforms/MethodBuilder.h"

#include "passes/rules/Annotated.h"
#include "passes/support/GraphUtil.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <cctype>

namespace inv::opt {

using namespace torch::jit;

std::string readableName(const Value* v) {
  // The importer of archives names parameters after their attribute only if
  // the source did; the attribute's name says more.
  if (v->node()->kind() == prim::GetAttr) {
    const Value* object = v->node()->input();
    std::string name = v->node()->s(attr::name);
    if (object->node()->kind() == prim::GetAttr)
      name = attributeName(object) + "_" + name;
    return name;
  }
  if (!v->hasDebugName())
    return "";
  std::string name = v->debugName();
  name = name.substr(0, name.find('.'));
  // "input" is what tracing calls everything that a layer reads.
  if (name.rfind("input", 0) == 0 && v->node()->kind() != prim::Param)
    return "";
  return name;
}

MethodBuilder::MethodBuilder(const c10::ClassTypePtr& self,
                             AttributeSource& attributes)
    : graph_(std::make_shared<Graph>()), attributes_(attributes) {
  graph_->addInput("self")->setType(self);
}

void MethodBuilder::addInput(Value* outer, const char* role) {
  Value* in = graph_->addInput();
  in->setType(outer->type());
  const std::string name = readableName(outer);
  in->setDebugName(name.empty() ? role : name);
  map_[outer] = in;
}

Value* MethodBuilder::get(Value* outer) {
  auto found = map_.find(outer);
  if (found != map_.end())
    return found->second;
  Node* maker = outer->node();
  if (outer->type()->kind() == c10::TypeKind::NoneType)
    return map_[outer] = graph_->insertConstant(IValue());
  TORCH_INTERNAL_ASSERT(
      maker->kind() == prim::Constant || maker->kind() == prim::ListConstruct ||
          maker->kind() == prim::TupleConstruct,
      "a step reads %", outer->debugName(), ", which nobody hands to it");
  copy(maker);
  return map_.at(outer);
}

void MethodBuilder::copy(Node* n) {
  if (n->kind() == prim::CallMethod) {
    std::vector<Value*> arguments;
    for (size_t i = 1; i < n->inputs().size(); ++i)
      arguments.push_back(get(n->input(i)));
    std::vector<Value*> results = inlineCall(n, n->s(attr::name), arguments);
    std::vector<Value*> outer{n->output()};
    if (n->output()->type()->kind() == c10::TypeKind::TupleType)
      for (const Use& use : n->output()->uses())
        if (use.user->kind() == prim::TupleUnpack)
          outer.assign(use.user->outputs().begin(), use.user->outputs().end());
    for (size_t i = 0; i < outer.size() && i < results.size(); ++i)
      map_[outer[i]] = results[i];
    return;
  }
  Node* clone = graph_->createClone(n, [this](Value* v) { return get(v); });
  graph_->insertNode(clone);
  for (size_t i = 0; i < n->outputs().size(); ++i) {
    map_[n->output(i)] = clone->output(i);
    // Names of the source, without the number that made them unique there.
    const std::string name = readableName(n->output(i));
    if (!name.empty())
      clone->output(i)->setDebugName(name);
    // A list that is taken apart right behind its maker comes along.
    if (n->outputs().size() == 1 && n->output()->uses().size() == 1) {
      Node* user = n->output()->uses()[0].user;
      if (user->kind() == prim::ListUnpack || user->kind() == prim::TupleUnpack)
        copy(user);
    }
  }
}

namespace {

/// The method of the module that `callNode` calls, its attributes read at the
/// top (and not inside of a loop).
std::shared_ptr<Graph> bodyOf(Node* callNode, const std::string& method) {
  auto type = callNode->input(0)->type()->expect<c10::ClassType>();
  auto body = inlinedMethod(type->getMethod(method));
  hoistAttributeReads(*body);
  return body;
}

/// The chain of attribute names from `self`, if that is what `n` reads.
bool attributePath(Node* n, const Value* self, std::vector<std::string>& path) {
  if (n->kind() != prim::GetAttr)
    return false;
  if (n->input() != self && !attributePath(n->input()->node(), self, path))
    return false;
  path.push_back(n->s(attr::name));
  return true;
}

void collectReads(Block* block, const Value* self, std::vector<Node*>& reads) {
  for (Node* n : block->nodes()) {
    std::vector<std::string> path;
    if (attributePath(n, self, path) &&
        !n->output()->type()->cast<c10::ClassType>())
      reads.push_back(n);
    for (Block* inner : n->blocks())
      collectReads(inner, self, reads);
  }
}

} // namespace

std::vector<AttributeRead> attributeReads(Node* callNode,
                                          const std::string& method) {
  const auto body = bodyOf(callNode, method);
  std::vector<Node*> reads;
  collectReads(body->block(), body->inputs().at(0), reads);
  std::vector<AttributeRead> out;
  for (Node* read : reads) {
    AttributeRead a;
    attributePath(read, body->inputs().at(0), a.path);
    a.type = read->output()->type();
    out.push_back(std::move(a));
  }
  return out;
}

std::vector<Value*>
MethodBuilder::inlineCall(Node* callNode, const std::string& method,
                          const std::vector<Value*>& arguments) {
  const auto body = bodyOf(callNode, method);
  std::unordered_map<Value*, Value*> local;
  for (size_t i = 0; i < arguments.size(); ++i)
    local[body->inputs().at(i + 1)] = arguments[i];
  std::vector<Node*> reads;
  collectReads(body->block(), body->inputs().at(0), reads);
  for (Node* read : reads) {
    std::vector<std::string> path;
    attributePath(read, body->inputs().at(0), path);
    Value* outer =
        attributes_.attribute(callNode, path, read->output()->type());
    local[read->output()] = get(outer);
  }
  auto lookup = [&](Value* v) {
    auto found = local.find(v);
    TORCH_INTERNAL_ASSERT(found != local.end(), "annotated module reads %",
                          v->debugName(), " in a way that is not understood");
    return found->second;
  };
  for (Node* n : body->nodes()) {
    if (n->kind() == prim::GetAttr)
      continue; // handed in, or a module on the way to what is
    Node* clone = graph_->createClone(n, lookup);
    graph_->insertNode(clone);
    for (size_t i = 0; i < n->outputs().size(); ++i) {
      local[n->output(i)] = clone->output(i);
      const std::string name = readableName(n->output(i));
      if (!name.empty())
        clone->output(i)->setDebugName(name);
    }
  }
  std::vector<Value*> results;
  for (Value* out : body->outputs()) {
    Value* inner = lookup(out);
    if (inner->type()->kind() != c10::TypeKind::TupleType) {
      results.push_back(inner);
      continue;
    }
    Node* unpack = graph_->insertNode(graph_->createTupleUnpack(inner));
    results.insert(results.end(), unpack->outputs().begin(),
                   unpack->outputs().end());
  }
  return results;
}

void MethodBuilder::finish(const std::vector<Value*>& results) {
  if (results.size() == 1)
    graph_->registerOutput(results[0]);
  else
    graph_->registerOutput(
        graph_->insertNode(graph_->createTuple(results))->output());
}

namespace {

/// The end that both names have, cut at an underscore.
std::string commonName(const std::string& a, const std::string& b) {
  const auto differ = std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend());
  const auto length = static_cast<size_t>(differ.first - a.rbegin());
  std::string name = a.substr(a.size() - length);
  if (length < a.size() && length < b.size()) {
    const size_t cut = name.find('_');
    name = cut == std::string::npos ? "" : name.substr(cut + 1);
  }
  const bool isName = !name.empty() && std::isdigit(name[0]) == 0;
  return isName ? name : "capture";
}

} // namespace

void shareNames(Function& method, const Graph& other, size_t first,
                size_t last) {
  Graph& graph = *toGraphFunction(method).graph();
  std::vector<c10::Argument> arguments = method.getSchema().arguments();
  for (size_t i = first; i < last; ++i) {
    Value* input = graph.inputs()[i];
    const std::string name = input->debugNameBase();
    const std::string otherName = other.inputs()[i]->debugNameBase();
    if (name == otherName)
      continue;
    input->setDebugName(commonName(name, otherName));
    arguments[i] = c10::Argument(input->debugNameBase(), arguments[i].type());
  }
  method.setSchema(method.getSchema().cloneWithArguments(std::move(arguments)));
}

} // namespace inv::opt
