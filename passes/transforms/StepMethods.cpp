#include "passes/transforms/StepMethods.h"

#include "inv/Abi.h"
#include "passes/rules/Match.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/Holds.h"
#include "passes/support/Written.h"
#include "passes/transforms/JoinParts.h"
#include "passes/transforms/MethodBuilder.h"

#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Current = std::function<Value*(Value*)>;

std::vector<int64_t> indicesIn(const std::vector<Value*>& subset,
                               const std::vector<Value*>& all) {
  std::vector<int64_t> out;
  out.reserve(subset.size());
  for (Value* v : subset)
    out.push_back(std::find(all.begin(), all.end(), v) - all.begin());
  return out;
}

void addOnce(std::vector<Value*>& list, Value* v) {
  if (std::find(list.begin(), list.end(), v) == list.end())
    list.push_back(v);
}

/// y = x_scale * x + aux_scale * aux, as found in a step's function.
struct ScaledSum {
  double xScale = 1.0, auxScale = 1.0;
};

std::optional<ScaledSum> matchScaledSum(const StepDraft& d,
                                        const Dataflow& flow) {
  if (d.xs.size() != 1 || d.aux.size() != 1 || d.ys.size() != 1 ||
      !d.functionCaptures.empty() || !d.functionExtras.empty())
    return std::nullopt;
  ScaledSum s;
  Value* x = flow.value(d.xs[0]).value;
  const Value* aux = flow.value(d.aux[0]).value;
  size_t at = 0;
  // An optional product with a constant, then the sum.
  if (d.stream.size() == 2) {
    Node* mul = flow.node(d.stream[at++]).node;
    if (mul->kind() != aten::mul)
      return std::nullopt;
    Value* factor = mul->input(0) == x ? mul->input(1) : mul->input(0);
    if ((mul->input(0) != x && mul->input(1) != x) || !constantScalar(factor))
      return std::nullopt;
    s.xScale = *constantScalar(factor);
    x = mul->output();
  }
  if (d.stream.size() != at + 1)
    return std::nullopt;
  Node* sum = flow.node(d.stream[at]).node;
  if ((sum->kind() != aten::add && sum->kind() != aten::sub) ||
      sum->inputs().size() != 3 || constantScalar(sum->input(2)) != 1.0)
    return std::nullopt;
  const bool minus = sum->kind() == aten::sub;
  if (sum->input(0) == x && sum->input(1) == aux) {
    s.auxScale = minus ? -1.0 : 1.0;
    return s;
  }
  if (sum->input(0) == aux && sum->input(1) == x) {
    s.xScale *= minus ? -1.0 : 1.0;
    return s;
  }
  return std::nullopt;
}

/// How errors grow through a step's inverse.
struct Growth {
  double constant = 1.0;        ///< of the rules whose bound is a number
  bool dependsOnValues = false; ///< others have code for it
};

Growth growthOf(const StepDraft& draft, const RuleContext& rules) {
  Growth growth;
  for (const Derivation& d : draft.derivations) {
    if (d.candidate < 0)
      continue;
    for (const Elements& e : d.elements)
      growth.dependsOnValues |= needsCheck(e);
    if (candidatesOf(d.node, rules).at(size_t(d.candidate)).growth)
      growth.dependsOnValues = true;
    else if (d.cls == RuleClass::Scale && draft.form == StepForm::Coupling)
      growth.constant *= abi::growthOfScale(d.amplification);
    else
      growth.constant *= d.amplification;
  }
  return growth;
}

double mostGrowth(const StepDraft& draft, const Options& options) {
  const bool solves = std::any_of(
      draft.derivations.begin(), draft.derivations.end(),
      [](const Derivation& d) { return d.cls == RuleClass::Solve; });
  return solves ? std::max(options.maxGrowth, options.maxCondition)
                : options.maxGrowth;
}

/// Everything that one step is written from, and the code of its inverse.
class Writing final : public AttributeSource, public InverseBuilder {
public:
  Writing(PassContext& context, const RuleContext& rules,
          const StepDraft& draft, const Current& current,
          const c10::ClassTypePtr& type)
      : context_(context), rules_(rules), flow_(rules.flow), draft_(draft),
        current_(current), type_(type) {}

  void run() {
    collectInterface();
    if (!draft_.stream.empty()) {
      // Function, inverse and growth take the same: both are written a first
      // time to learn what sizes and records they ask for.
      const bool measures = growthOf(draft_, rules_).dependsOnValues;
      writeInverse(/*asGrowth=*/measures);
      inverse = writeInverse(/*asGrowth=*/false);
      if (measures)
        growth = writeInverse(/*asGrowth=*/true);
      writeFunction();
    }
    if (!draft_.aux.empty() || !draft_.sides.empty())
      writeConditioner();
  }

  // AttributeSource: reads of an annotated module's attributes are made in the
  // model's graph, once per step, and handed in.
  Value* attribute(Node* callNode, const std::vector<std::string>& path,
                   const c10::TypePtr& type) override {
    auto key = std::make_pair(callNode, path);
    auto found = attributes_.find(key);
    if (found != attributes_.end())
      return found->second;
    Value* v = callNode->input(0);
    Graph& g = *context_.method.graph;
    for (const std::string& name : path)
      v = g.insertGetAttr(v, name);
    attributes_[key] = v;
    const bool tensor = type->isSubtypeOf(*c10::TensorType::get());
    if (type->kind() == c10::TypeKind::NoneType)
      return v;
    addOnce(tensor ? captures : extras, v);
    addOnce(tensor ? functionCaptures : functionExtras, v);
    return v;
  }

  // InverseBuilder
  Graph& graph() override { return inverse_->graph(); }
  Value* result(size_t i) override {
    return known(flow_.value(flow_.node(undoing_).results.at(i)).value);
  }
  Value* operand(Value* original) override { return inverse_->get(original); }
  bool isOutside(Value* solved) override {
    const ValueId x = flow_.idOf(solved);
    return std::find(draft_.xs.begin(), draft_.xs.end(), x) != draft_.xs.end();
  }
  Value* sizeOf(Value* solved, int64_t dim) override {
    return sizes(solved, dim);
  }
  Value* sizesOf(Value* solved) override { return sizes(solved, kWhole); }
  /// Computed in the method before the step, and handed to function and inverse
  /// as a capture.
  Value*
  recorded(Value* solved, const std::string& name,
           const std::function<Value*(Graph&, const Lookup&)>& make) override {
    Value*& made = recorded_[{solved, name}];
    if (!made) {
      Graph& g = *context_.method.graph;
      Value* x = g.insert(aten::detach, {current_(solved)});
      made = make(g, [&](Value* v) {
        if (auto constant = toIValue(v))
          return g.insertConstant(*constant);
        return v == solved ? x : current_(v);
      });
      made->setDebugName(name);
      addOnce(captures, made);
      addOnce(functionCaptures, made);
    }
    if (!inverse_->has(made))
      inverse_->addInput(made, name.c_str());
    return inverse_->get(made);
  }
  std::vector<Value*> call(Node* callNode, const std::string& method,
                           const std::vector<Value*>& arguments) override {
    return inverse_->inlineCall(callNode, method, arguments);
  }

  std::vector<Value*> captures, functionCaptures, scratch, extras,
      functionExtras;
  std::shared_ptr<Graph> conditioner, function, inverse, growth;

private:
  static constexpr int64_t kWhole = std::numeric_limits<int64_t>::min();

  std::vector<Value*> valuesOf(const std::vector<ValueId>& ids) const {
    std::vector<Value*> out;
    out.reserve(ids.size());
    for (ValueId v : ids)
      out.push_back(flow_.value(v).value);
    return out;
  }

  /// Size of a solved operand, taken in the method before the step and handed
  /// to function and inverse. The drafter sees to it that an operand whose size
  /// is asked for is an x of the step, so that it exists in the method.
  Value* sizes(Value* solved, int64_t dim) {
    auto key = std::make_pair(solved, dim);
    auto found = sizes_.find(key);
    if (found != sizes_.end())
      return inverse_->get(found->second);
    Graph& g = *context_.method.graph;
    Value* x = current_(solved);
    Value* size = dim == kWhole ? g.insert(aten::size, {x})
                                : g.insert(aten::size, {x, dim});
    const std::string name = readableName(solved);
    if (!name.empty())
      size->setDebugName(name + "_size");
    sizes_[key] = size;
    addOnce(extras, size);
    addOnce(functionExtras, size);
    inverse_->addInput(size, "size");
    return inverse_->get(size);
  }

  void collectInterface() {
    captures = valuesOf(draft_.captures);
    functionCaptures = valuesOf(draft_.functionCaptures);
    scratch = valuesOf(draft_.scratch);
    extras = valuesOf(draft_.extras);
    functionExtras = valuesOf(draft_.functionExtras);
    takeOptionalsApart();
    // What annotated modules read: before any method is written, so that all
    // methods agree on the list.
    for (NodeId n : draft_.stream) {
      Node* node = flow_.node(n).node;
      if (node->kind() != prim::CallMethod)
        continue;
      for (const std::string& method :
           {node->s(attr::name), std::string(abi::kInverse)})
        readAttributes(node, method);
    }
  }

  /// A tensor that may be None is handed in as a tensor, of no elements where
  /// there is none, and a flag.
  void takeOptionalsApart() {
    for (Value* v : valuesOf(draft_.extras)) {
      if (!isOptionalTensor(v->type()))
        continue;
      Graph& g = *context_.method.graph;
      Value* now = current_(v);
      Value* isThere = g.insert(aten::__isnot__, {now, IValue()});
      Node* choice = g.insertNode(g.create(prim::If, {isThere}, 1));
      choice->output()->setType(c10::TensorType::get());
      {
        WithInsertPoint yes(choice->addBlock());
        Node* cast = g.insertNode(g.create(prim::unchecked_cast, {now}));
        cast->output()->setType(c10::TensorType::get());
        choice->blocks()[0]->registerOutput(cast->output());
      }
      {
        WithInsertPoint no(choice->addBlock());
        choice->blocks()[1]->registerOutput(
            g.insert(aten::zeros, {std::vector<int64_t>{0}}));
      }
      Value* tensor = choice->output();
      isThere->setDebugName(readableName(v) + "_is_there");
      tensor->setDebugName(readableName(v));
      const bool ofFunction = std::erase(functionExtras, v) > 0;
      std::erase(extras, v);
      captures.push_back(tensor);
      extras.push_back(isThere);
      if (ofFunction) {
        functionCaptures.push_back(tensor);
        functionExtras.push_back(isThere);
      }
      optionals_.push_back({v, tensor, isThere});
    }
  }

  /// And put together again inside, where the method is handed both.
  void putOptionalsTogether(MethodBuilder& b) const {
    Graph& g = b.graph();
    WithInsertPoint at(g.return_node());
    for (const OptionalTensor& o : optionals_) {
      if (!b.has(o.tensor) || !b.has(o.isThere))
        continue;
      Node* choice = g.insertNode(g.create(prim::If, {b.get(o.isThere)}, 1));
      choice->output()->setType(o.outer->type());
      choice->addBlock()->registerOutput(b.get(o.tensor));
      Block* none = choice->addBlock();
      {
        WithInsertPoint no(none);
        none->registerOutput(g.insertConstant(IValue()));
      }
      b.bind(o.outer, choice->output());
    }
  }

  void readAttributes(Node* callNode, const std::string& method) {
    for (const AttributeRead& read : attributeReads(callNode, method))
      attribute(callNode, read.path, read.type);
  }

  void addFunctionInputs(MethodBuilder& b, const std::vector<ValueId>& states,
                         const char* role) {
    for (Value* v : valuesOf(states))
      b.addInput(v, role);
    for (Value* v : valuesOf(draft_.aux))
      if (!b.has(v))
        b.addInput(v, "f");
    for (Value* v : functionCaptures)
      b.addInput(v, "weight");
    for (Value* v : functionExtras)
      b.addInput(v, "n");
    putOptionalsTogether(b);
  }

  /// The inverse; or, as growth, the inverse with the code of its growths, of
  /// which only what these read is left (dead code is removed later).
  std::shared_ptr<Graph> writeInverse(bool asGrowth) {
    MethodBuilder b(type_, *this);
    Value* product = nullptr;
    inverse_ = &b;
    addFunctionInputs(b, draft_.ys, "y");
    for (const Derivation& d : draft_.derivations) {
      if (d.candidate < 0)
        continue;
      undoing_ = d.node;
      const Candidate& candidate =
          candidatesOf(d.node, rules_).at(size_t(d.candidate));
      WithInsertPoint at(b.graph().return_node());
      if (asGrowth && candidate.growth) {
        Value* one = candidate.growth(*this);
        product = product ? b.graph().insert(aten::mul, {product, one}) : one;
      }
      std::vector<Value*> solved = candidate.emit(*this);
      for (size_t i = 0; i < d.solved.size(); ++i) {
        Value* outer = flow_.value(d.solved[i]).value;
        if (b.has(outer))
          continue;
        if (solvesPart(d, i))
          parts_[outer].push_back({d.elements[i], solved.at(i)});
        else
          bind(outer, solved.at(i));
      }
    }
    WithInsertPoint at(b.graph().return_node());
    std::vector<Value*> results;
    for (Value* x : valuesOf(draft_.xs)) {
      if (auto parts = parts_.find(x); parts != parts_.end())
        TORCH_INTERNAL_ASSERT(partsCover(parts->second),
                              "parts of a state are missing");
      results.push_back(known(x));
    }
    if (asGrowth)
      for (const auto& [outer, parts] : parts_)
        if (Value* holds = checkParts(parts, accessTo(outer)))
          product =
              product ? b.graph().insert(aten::mul, {product, holds}) : holds;
    parts_.clear();
    if (asGrowth && !product) // what could be checked holds in any case
      product = b.graph().insert(aten::scalar_tensor, {1.0});
    b.finish(asGrowth ? std::vector<Value*>{product} : results);
    inverse_ = nullptr;
    return b.take();
  }

  void bind(Value* outer, Value* inner) {
    inverse_->bind(outer, inner);
    const std::string name = readableName(outer);
    if (!name.empty() && inner->node()->kind() != prim::Param)
      inner->setDebugName(name);
  }

  PartAccess accessTo(Value* outer) {
    return {inverse_->graph(), [this](Value* v) { return inverse_->get(v); },
            [this, outer] { return sizes(outer, kWhole); },
            [this, outer](int64_t dim) { return sizes(outer, dim); }};
  }

  /// A value inside the inverse; joined from its parts at the first use.
  Value* known(Value* outer) {
    auto found = parts_.find(outer);
    if (!inverse_->has(outer) && found != parts_.end()) {
      // As the sweep: masks and places do not go together.
      std::vector<Part> parts = found->second;
      const bool masked = parts[0].elements.isMasked();
      std::erase_if(parts, [&](const Part& part) {
        return part.elements.isMasked() != masked;
      });
      bind(outer, joinParts(parts, accessTo(outer)));
    }
    return inverse_->get(outer);
  }

  void writeFunction() {
    MethodBuilder b(type_, *this);
    addFunctionInputs(b, draft_.xs, "x");
    WithInsertPoint at(b.graph().return_node());
    for (NodeId n : draft_.stream)
      b.copy(flow_.node(n).node);
    std::vector<Value*> results;
    for (Value* y : valuesOf(draft_.ys))
      results.push_back(b.get(y));
    b.finish(results);
    function = b.take();
  }

  void writeConditioner() {
    MethodBuilder b(type_, *this);
    for (Value* v : valuesOf(draft_.zs))
      b.addInput(v, "z");
    for (Value* v : captures)
      b.addInput(v, "weight");
    for (Value* v : extras)
      b.addInput(v, "n");
    putOptionalsTogether(b);
    WithInsertPoint at(b.graph().return_node());
    for (NodeId n : draft_.conditioner)
      if (!flow_.node(n).glue)
        b.copy(flow_.node(n).node);
    std::vector<Value*> results;
    for (const auto* list : {&draft_.aux, &draft_.sides})
      for (Value* v : valuesOf(*list))
        results.push_back(b.get(v));
    b.finish(results);
    conditioner = b.take();
  }

  PassContext& context_;
  const RuleContext& rules_;
  const Dataflow& flow_;
  const StepDraft& draft_;
  const Current& current_;
  const c10::ClassTypePtr& type_;
  MethodBuilder* inverse_ = nullptr;
  NodeId undoing_ = -1;
  std::map<std::pair<Node*, std::vector<std::string>>, Value*> attributes_;
  std::map<std::pair<Value*, int64_t>, Value*> sizes_;
  std::map<std::pair<Value*, std::string>, Value*> recorded_;
  std::map<Value*, std::vector<Part>> parts_;
  struct OptionalTensor {
    Value *outer, *tensor, *isThere;
  };
  std::vector<OptionalTensor> optionals_;
};

/// The graph with its values numbered in order: equal for equal code.
std::string contentOf(Graph& graph) {
  auto copy = graph.copy();
  int number = 0;
  std::function<void(Block*)> rename = [&](Block* block) {
    for (Value* in : block->inputs())
      in->setDebugName(fmt::format("v{}_", number++));
    for (Node* n : block->nodes()) {
      for (Value* out : n->outputs())
        out->setDebugName(fmt::format("v{}_", number++));
      for (Block* inner : n->blocks())
        rename(inner);
    }
  };
  copy->inputs()[0]->setType(c10::AnyType::get());
  rename(copy->block());
  return copy->toString(false);
}

using Constants = std::vector<std::pair<std::string, IValue>>;

Constants constantsOf(const StepDraft& draft, const Writing& w,
                      const RuleContext& rules) {
  const Dataflow& flow = rules.flow;
  Constants out = {
      {abi::kNumStates, int64_t(draft.ys.size())},
      {abi::kNumAux, int64_t(draft.aux.size())},
      {abi::kNumSides, int64_t(draft.sides.size())},
      {abi::kFunctionCaptures, indicesIn(w.functionCaptures, w.captures)},
      {abi::kFunctionExtras, indicesIn(w.functionExtras, w.extras)},
      {abi::kScratch, indicesIn(w.scratch, w.captures)},
  };
  if (const Growth growth = growthOf(draft, rules); growth.constant != 1.0)
    out.emplace_back(abi::kConstantGrowth, growth.constant);
  if (std::any_of(draft.derivations.begin(), draft.derivations.end(),
                  [](const Derivation& d) { return d.resizes; }))
    out.emplace_back(abi::kResizes, true);
  if (auto sum = matchScaledSum(draft, flow)) {
    out.emplace_back(abi::kArithmetic, std::string(abi::kScaledSum));
    out.emplace_back(abi::kXScale, sum->xScale);
    out.emplace_back(abi::kAuxScale, sum->auxScale);
  } else if (draft.stream.size() == 1 && draft.form == StepForm::Bijection &&
             flow.node(draft.stream[0]).node->kind() == aten::linear) {
    out.emplace_back(abi::kArithmetic, std::string(abi::kLinear));
  } else {
    out.emplace_back(abi::kArithmetic, std::string());
  }
  return out;
}

struct Attributes {
  std::string mode;
  bool preserveRng = true;
  std::string origin;
  double maxGrowth = 0.0;
};

void setAttributes(Module& step, const Attributes& a, bool fresh) {
  const std::vector<std::pair<std::string, IValue>> all = {
      {"training", true},
      {abi::kMode, a.mode},
      {abi::kPreserveRng, a.preserveRng},
      {abi::kOrigin, a.origin},
      {abi::kMaxGrowth, a.maxGrowth}};
  for (const auto& [name, value] : all)
    if (fresh)
      step.register_attribute(name, value.type(), value);
    else
      step.setattr(name, value);
}

/// Where the step came from, for the runtime's messages.
std::string originOf(const Node* n) {
  const std::string module = modulePathOf(n), source = sourceOf(n);
  if (module.empty() || source.empty())
    return module + source;
  return module + ": " + source;
}

} // namespace

std::vector<Value*> StepWriter::write(const StepDraft& draft,
                                      const RuleContext& rules,
                                      const Current& current) {
  Graph& g = *context_.method.graph;
  Module& root = context_.model.module;
  auto cu = root._ivalue()->compilation_unit();
  int number = 0;
  while (root.hasattr(abi::kStepPrefix + std::to_string(number)))
    ++number;
  int classNumber = 0;
  auto className = [&] {
    return c10::QualifiedName(abi::kClassPrefix + std::to_string(classNumber));
  };
  while (cu->get_class(className()))
    ++classNumber;

  // The class is made first, so that its methods can be typed with it; where an
  // equal one exists, it is left behind unregistered.
  auto type = c10::ClassType::create(className(), cu, /*is_module=*/true);
  Writing w(context_, rules, draft, current, type);
  w.run();
  const Constants constants = constantsOf(draft, w, rules);
  std::string content;
  for (const auto& graph : {w.conditioner, w.function, w.inverse, w.growth})
    if (graph) {
      EliminateDeadCode(graph);
      lowerWritten(graph->block());
      lowerHolds(graph->block());
      content += contentOf(*graph) + "\n";
    }
  for (const auto& [name, value] : constants)
    content += fmt::format("{}={}\n", name, fmt::streamed(value));

  const Node* place =
      rules.flow
          .node(draft.stream.empty() ? draft.owned.back() : draft.stream.back())
          .node;
  const Attributes attributes{context_.options.mode, true, originOf(place),
                              mostGrowth(draft, context_.options)};
  auto known = classes_.find(content);
  const bool fresh = known == classes_.end();
  if (fresh) {
    cu->register_type(type);
    for (const auto& [name, value] : constants)
      type->addConstant(name, value);
    classes_[content] = type;
  } else {
    type = known->second;
    // Behind self and the states.
    const bool bijection = draft.form == StepForm::Bijection;
    const size_t first = 1 + (bijection ? draft.xs : draft.zs).size();
    shareNames(type->getMethod(bijection ? abi::kFunction : abi::kConditioner),
               bijection ? *w.function : *w.conditioner, first,
               first + w.captures.size());
  }
  Module step(cu, type);
  setAttributes(step, attributes, fresh);
  if (fresh) {
    const std::vector<std::pair<const char*, std::shared_ptr<Graph>>> methods =
        {{abi::kConditioner, w.conditioner},
         {abi::kFunction, w.function},
         {abi::kInverse, w.inverse},
         {abi::kGrowth, w.growth}};
    for (const auto& [name, graph] : methods)
      if (graph)
        type->addMethod(cu->create_function(
            c10::QualifiedName(*type->name(), name), graph, false));
  }
  const std::string attribute = abi::kStepPrefix + std::to_string(number);
  root.register_module(attribute, step);

  // The call.
  auto list = [&](const std::vector<Value*>& values) {
    return g.insertNode(g.createList(c10::TensorType::get(), values))->output();
  };
  auto states = [&](const std::vector<ValueId>& ids) {
    std::vector<Value*> out;
    out.reserve(ids.size());
    for (ValueId v : ids)
      out.push_back(current(rules.flow.value(v).value));
    return out;
  };
  auto outer = [&](const std::vector<Value*>& values) {
    std::vector<Value*> out;
    out.reserve(values.size());
    for (Value* v : values)
      out.push_back(current(v));
    return out;
  };
  std::vector<Value*> inputs{g.insertGetAttr(g.inputs()[0], attribute)};
  if (draft.form != StepForm::Checkpoint)
    inputs.push_back(list(states(draft.xs)));
  if (draft.form != StepForm::Bijection)
    inputs.push_back(list(states(draft.zs)));
  inputs.push_back(list(outer(w.captures)));
  inputs.push_back(
      w.extras.empty()
          ? g.insertConstant(IValue())
          : g.insertNode(g.createTuple(outer(w.extras)))->output());
  const char* op = draft.form == StepForm::Coupling    ? abi::kCoupling
                   : draft.form == StepForm::Bijection ? abi::kBijection
                                                       : abi::kCheckpoint;
  Node* call = g.insertNode(g.create(Symbol::fromQualString(op), inputs, 1));
  call->output()->setType(c10::ListType::ofTensors());
  call->setSourceRange(place->sourceRange());
  if (auto stack = place->callstack())
    call->setCallStack(*stack);
  const size_t count =
      draft.ys.size() + draft.sides.size() +
      (draft.form == StepForm::Bijection ? 0 : draft.zs.size());
  Node* unpack = g.insertNode(g.createListUnpack(call->output(), count));
  std::vector<Value*> out(unpack->outputs().begin(), unpack->outputs().end());
  size_t at = 0;
  for (const auto* values : {&draft.ys, &draft.sides, &draft.zs})
    for (ValueId v : *values) {
      if (at == out.size())
        break;
      const std::string name = readableName(rules.flow.value(v).value);
      if (!name.empty())
        out[at]->setDebugName(name);
      ++at;
    }
  return out;
}

} // namespace inv::opt
