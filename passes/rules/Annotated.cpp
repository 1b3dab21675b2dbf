// Modules whose inverse the user wrote.
//
//   y... = module.forward(x...)    x... = module.inverse(y...)
//
// The importer leaves the calls of annotated modules as prim::CallMethod.
// Checked: inverse takes as many tensors as forward returns, and returns as
// many as forward takes; neither writes an attribute; on sample inputs, where
// there are any, inverse(forward(x)) is x. All outputs go into the inverse,
// also those that are not undone further on (auxiliary outputs).
#include "passes/rules/Annotated.h"

#include "passes/rules/Match.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <fmt/format.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

int64_t countTensors(const std::vector<c10::TypePtr>& types) {
  int64_t count = 0;
  for (const auto& t : types)
    count += t->isSubtypeOf(*c10::TensorType::get());
  return count;
}

std::vector<c10::TypePtr> argumentTypes(const Function& f) {
  std::vector<c10::TypePtr> types;
  for (size_t i = 1; i < f.getSchema().arguments().size(); ++i)
    types.push_back(f.getSchema().arguments()[i].type());
  return types;
}

std::vector<c10::TypePtr> returnTypes(const Function& f) {
  std::vector<c10::TypePtr> types;
  for (const auto& r : f.getSchema().returns()) {
    if (auto tuple = r.type()->cast<c10::TupleType>())
      for (const auto& element : tuple->elements())
        types.push_back(element);
    else
      types.push_back(r.type());
  }
  return types;
}

bool writesAttribute(const Block* block) {
  for (const Node* n : block->nodes()) {
    if (n->kind() == prim::SetAttr || writesInput(n))
      return true;
    for (const Block* inner : n->blocks())
      if (writesAttribute(inner))
        return true;
  }
  return false;
}

/// Empty where the two methods fit together.
std::string signatureProblem(const Function& forward, const Function& inverse) {
  const auto in = argumentTypes(forward), out = returnTypes(forward);
  const auto back = argumentTypes(inverse), x = returnTypes(inverse);
  for (const auto* types : {&in, &out, &back, &x})
    if (countTensors(*types) != int64_t(types->size()))
      return "every argument and result must be a Tensor";
  if (back.size() != out.size())
    return fmt::format("forward returns {} tensors, inverse takes {}",
                       out.size(), back.size());
  if (x.size() != in.size())
    return fmt::format("forward takes {} tensors, inverse returns {}",
                       in.size(), x.size());
  return "";
}

} // namespace

std::shared_ptr<Graph> inlinedMethod(const Function& f) {
  // Not optimized_graph(): its peepholes may change bits.
  auto graph = toGraphFunction(const_cast<Function&>(f)).graph()->copy();
  Inline(*graph);
  // Branches on default arguments (`inplace=False`) hold operators that never
  // run.
  ConstantPropagationImmutableTypes(graph);
  return graph;
}

void annotatedRule(NodeId id, const RuleContext& context,
                   std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  const NodeInfo& info = flow.node(id);
  Node* n = info.node;
  if (n->kind() != prim::CallMethod)
    return;
  auto type = n->input(0)->type()->cast<c10::ClassType>();
  if (!type)
    return;
  Candidate c;
  c.rule = "annotated";
  c.cls = RuleClass::Annotated;
  for (size_t i = 1; i < n->inputs().size(); ++i)
    c.solved.push_back(flow.idOf(n->input(i)));
  auto refuse = [&](Reason reason, std::string detail) {
    c.refused = reason;
    c.detail = std::move(detail);
    out.push_back(c);
  };
  const std::string name = n->s(attr::name);
  const Function* forward = type->findMethod(name);
  const Function* inverse = type->findMethod("inverse");
  if (!inverse)
    return refuse(Reason::AnnotationSignature, "it has no method `inverse`");
  const std::string problem = signatureProblem(*forward, *inverse);
  if (!problem.empty())
    return refuse(Reason::AnnotationSignature, problem);
  if (writesAttribute(inlinedMethod(*forward)->block()) ||
      writesAttribute(inlinedMethod(*inverse)->block()))
    return refuse(Reason::AnnotationEffect, "");
  for (ValueId x : c.solved)
    if (x < 0 || !flow.value(x).isActivation())
      return refuse(Reason::AnnotationSignature,
                    "an argument of the call is not an activation");
  for (ValueId y : info.results)
    if (!isTensor(flow.value(y)))
      return refuse(Reason::AnnotationSignature,
                    "the call's outputs are not unpacked");
  const size_t results = info.results.size();
  c.emit = [n, results](InverseBuilder& b) {
    std::vector<Value*> ys;
    for (size_t i = 0; i < results; ++i)
      ys.push_back(b.result(i));
    return b.call(n, "inverse", ys);
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
