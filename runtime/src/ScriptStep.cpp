// StepFunctions on a TorchScript object, as inv-opt writes it into archives.
#include "ScriptCode.h"
#include "Stats.h"
#include "StepAnalysis.h"
#include "StepFunctions.h"

#include "inv/Abi.h"

#include <ATen/core/class_type.h>
#include <ATen/core/function.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace inv {
namespace {

using torch::jit::Function;

/// What is the same for all steps of one class, read once.
struct StepClass {
  std::weak_ptr<c10::ClassType> type;
  StepLayout layout;
  // Owned by the compilation unit, which every object of the class keeps.
  Function *conditioner = nullptr, *function = nullptr, *inverse = nullptr,
           *growth = nullptr;
  std::optional<size_t> mode, preserveRng, origin, maxGrowth; // attribute slots
  MethodFacts conditionerFacts, functionFacts;
  mutable std::atomic<bool> mayDraw{false};
};

class ClassReader {
public:
  explicit ClassReader(const c10::ClassType& type) : type_(type) {}

  c10::IValue find(const char* name) const {
    return type_.findConstant(name).value_or(c10::IValue());
  }
  int64_t integer(const char* name, int64_t otherwise) const {
    const auto v = find(name);
    if (v.isNone())
      return otherwise;
    check(v.isInt(), name, "int");
    return v.toInt();
  }
  double real(const char* name, double otherwise) const {
    const auto v = find(name);
    if (v.isNone())
      return otherwise;
    check(v.isDouble() || v.isInt(), name, "float");
    return v.isInt() ? static_cast<double>(v.toInt()) : v.toDouble();
  }
  bool flag(const char* name) const {
    const auto v = find(name);
    if (v.isNone())
      return false;
    check(v.isBool(), name, "bool");
    return v.toBool();
  }
  std::string text(const char* name) const {
    const auto v = find(name);
    if (v.isNone())
      return {};
    check(v.isString(), name, "str");
    return v.toStringRef();
  }
  std::optional<std::vector<int64_t>> integers(const char* name) const {
    const auto v = find(name);
    if (v.isNone())
      return std::nullopt;
    if (v.isIntList())
      return v.toIntVector();
    // An empty list may have lost its type; torch.jit.script writes a tuple.
    check(v.isList() || v.isTuple(), name, "List[int]");
    const c10::ArrayRef<c10::IValue> elements =
        v.isList() ? v.toListRef() : v.toTupleRef().elements().asArrayRef();
    std::vector<int64_t> result;
    for (const c10::IValue& e : elements) {
      check(e.isInt(), name, "List[int]");
      result.push_back(e.toInt());
    }
    return result;
  }
  void check(bool good, const char* name, const char* what) const {
    TORCH_CHECK(good, "inv: class ", type_.name()->qualifiedName(),
                " is not a step: constant '", name, "' is no ", what);
  }

private:
  const c10::ClassType& type_;
};

Arithmetic arithmeticOf(const std::string& name) {
  if (name == abi::kScaledSum)
    return Arithmetic::ScaledSum;
  if (name == abi::kLinear)
    return Arithmetic::Linear;
  TORCH_CHECK(name.empty(), "inv: unknown arithmetic '", name,
              "' of a step: written by a newer inv-opt?");
  return Arithmetic::General;
}

StepLayout readLayout(const ClassReader& read) {
  StepLayout layout;
  layout.numStates = read.integer(abi::kNumStates, 0);
  layout.numAux = read.integer(abi::kNumAux, 0);
  layout.numSides = read.integer(abi::kNumSides, 0);
  layout.arithmetic = arithmeticOf(read.text(abi::kArithmetic));
  layout.xScale = read.real(abi::kXScale, 1);
  layout.auxScale = read.real(abi::kAuxScale, 1);
  layout.constantGrowth = read.real(abi::kConstantGrowth, 1);
  layout.resizes = read.flag(abi::kResizes);
  read.check(layout.xScale != 0, abi::kXScale, "scale other than 0");
  if (auto captures = read.integers(abi::kFunctionCaptures)) {
    layout.functionCaptures = *captures;
    layout.functionCapturesAll = false;
  }
  if (auto extras = read.integers(abi::kFunctionExtras)) {
    layout.functionExtras = *extras;
    layout.functionExtrasAll = false;
  }
  layout.scratch =
      read.integers(abi::kScratch).value_or(std::vector<int64_t>());
  return layout;
}

std::shared_ptr<const StepClass>
readClass(const std::shared_ptr<c10::ClassType>& type) {
  auto result = std::make_shared<StepClass>();
  result->type = type;
  result->layout = readLayout(ClassReader(*type));
  result->conditioner = type->findMethod(abi::kConditioner);
  result->function = type->findMethod(abi::kFunction);
  result->inverse = type->findMethod(abi::kInverse);
  result->growth = type->findMethod(abi::kGrowth);
  result->mode = type->findAttributeSlot(abi::kMode);
  result->preserveRng = type->findAttributeSlot(abi::kPreserveRng);
  result->origin = type->findAttributeSlot(abi::kOrigin);
  result->maxGrowth = type->findAttributeSlot(abi::kMaxGrowth);
  if (result->conditioner)
    result->conditionerFacts = analyzeMethod(*result->conditioner);
  if (result->function)
    result->functionFacts = analyzeMethod(*result->function);
  result->mayDraw =
      result->conditionerFacts.mayDraw || result->functionFacts.mayDraw;
  return result;
}

/// Classes by address; weak, since a class of another compilation unit may
/// come to lie at the same address.
class ClassCache {
public:
  std::shared_ptr<const StepClass>
  find(const std::shared_ptr<c10::ClassType>& type) {
    std::lock_guard lock(mutex_);
    const auto found = classes_.find(type.get());
    if (found != classes_.end() && found->second->type.lock() == type)
      return found->second;
    std::erase_if(classes_, [](auto& e) { return e.second->type.expired(); });
    return classes_.insert_or_assign(type.get(), readClass(type)).first->second;
  }

private:
  std::mutex mutex_;
  std::unordered_map<const c10::ClassType*, std::shared_ptr<const StepClass>>
      classes_;
};

std::shared_ptr<const StepClass>
classOf(const std::shared_ptr<c10::ClassType>& type) {
  static auto* cache = new ClassCache;
  return cache->find(type);
}

class ScriptStep final : public StepFunctions {
public:
  ScriptStep(c10::intrusive_ptr<c10::ivalue::Object> object,
             std::shared_ptr<const StepClass> stepClass)
      : object_(std::move(object)), class_(std::move(stepClass)) {}

  const StepLayout& layout() const override { return class_->layout; }

  Tensors runConditioner(Tensors z, Tensors captures,
                         const Extras& extras) const override {
    ++counters().conditioners;
    return run(class_->conditioner, abi::kConditioner, {&z, &captures}, extras,
               layout().numAux + layout().numSides);
  }
  Tensors runFunction(Tensors x, Tensors aux, Tensors captures,
                      const Extras& extras) const override {
    ++counters().functions;
    return run(class_->function, abi::kFunction, {&x, &aux, &captures}, extras,
               layout().numStates);
  }
  Tensors runInverse(Tensors y, Tensors aux, Tensors captures,
                     const Extras& extras) const override {
    ++counters().inverses;
    return run(class_->inverse, abi::kInverse, {&y, &aux, &captures}, extras,
               -1);
  }

  bool growthIsConstant() const override { return !class_->growth; }
  double growth(Tensors y, Tensors aux, Tensors captures,
                const Extras& extras) const override {
    double own = 1;
    if (class_->growth) {
      const at::Tensor factor = run(class_->growth, abi::kGrowth,
                                    {&y, &aux, &captures}, extras, 1)[0];
      TORCH_CHECK(factor.numel() == 1, "inv: step ", origin(), ": method '",
                  abi::kGrowth, "' returned sizes ", factor.sizes(),
                  ", not one number");
      own = factor.item<double>();
    }
    if (!(own > 0))
      return std::numeric_limits<double>::infinity();
    return std::max(1.0, own) * std::max(1.0, layout().constantGrowth);
  }

  double maxGrowth() const override {
    return class_->maxGrowth ? object_->getSlot(*class_->maxGrowth).toDouble()
                             : kDefaultMaxGrowth;
  }

  bool readsScratch(const CallShape& call, size_t i,
                    const Extras& extras) const override {
    const auto readBy = [&](const MethodFacts& facts, size_t firstCapture) {
      if (firstCapture + i >= facts.arguments.size())
        return false; // the call will fail
      const ArgumentFacts& argument = facts.arguments[firstCapture + i];
      const auto isFalse = [&](size_t flag) {
        const size_t firstExtra = firstCapture + call.captures;
        return flag < firstExtra || flag - firstExtra >= extras.size() ||
               !extras[flag - firstExtra].isBool() ||
               !extras[flag - firstExtra].toBool();
      };
      return argument.read || std::any_of(argument.readUnless.begin(),
                                          argument.readUnless.end(), isFalse);
    };
    if (call.kind == StepKind::Bijection)
      return readBy(class_->functionFacts, call.x);
    return call.kind == StepKind::Coupling && takes(layout(), i)
               ? true // by the function too: not looked into
               : readBy(class_->conditionerFacts, call.z);
  }

  std::string choiceAtZ(const CallShape& call, size_t i,
                        const Tensors& captures,
                        const Extras& extras) const override {
    return choiceAt(class_->conditionerFacts, i, call.z, captures, extras);
  }
  std::string choiceAtX(const CallShape& call, size_t i,
                        const Tensors& captures,
                        const Extras& extras) const override {
    if (layout().arithmetic != Arithmetic::General)
      return {};
    const bool all =
        call.kind == StepKind::Bijection || layout().functionCapturesAll;
    const size_t aux = static_cast<size_t>(layout().numAux);
    return choiceAt(class_->functionFacts, i,
                    call.x + (call.kind == StepKind::Bijection ? 0 : aux),
                    all ? captures : taken(captures), extras);
  }
  const std::vector<double>& tiesAtZ(size_t i) const override {
    return tiesAt(class_->conditionerFacts, i);
  }
  const std::vector<double>& tiesAtX(size_t i) const override {
    return layout().arithmetic == Arithmetic::General
               ? tiesAt(class_->functionFacts, i)
               : kNoTies;
  }

  std::string whyNotReplayed() const override {
    for (const MethodFacts* facts :
         {&class_->conditionerFacts, &class_->functionFacts}) {
      if (facts->forks)
        return "its code runs parts of itself on other threads";
      if (!facts->attribute.empty())
        return "its code uses attribute '" + facts->attribute +
               "' of the step, which is no capture";
    }
    return {};
  }

  std::string captureName(const CallShape& call, size_t i) const override {
    const bool bijection = call.kind == StepKind::Bijection;
    const Function* method = bijection ? class_->function : class_->conditioner;
    const size_t place = 1 + (bijection ? call.x : call.z) + i; // behind self
    const auto& arguments = method->getSchema().arguments();
    return place < arguments.size() ? arguments[place].name() : std::string();
  }

  std::string whatIsWrong(const CallShape& call) const override {
    const bool bijection = call.kind == StepKind::Bijection;
    const MethodFacts& facts =
        bijection ? class_->functionFacts : class_->conditionerFacts;
    const size_t states = bijection ? call.x : call.z;
    const size_t tensors = states + call.captures;
    for (size_t i = 0; i < std::min(tensors, facts.arguments.size()); i++) {
      if (!facts.arguments[i].written)
        continue;
      if (i < states)
        return "its code writes the state that it reads";
      if (!layout().isScratch(i - states))
        return "its code writes capture " + std::to_string(i - states) +
               ", which the class does not name in scratch_captures; a replay "
               "would write it again";
    }
    return {};
  }

  bool mayDraw() const override { return class_->mayDraw; }
  void noteDrew() const override { class_->mayDraw = true; }

  Mode mode() const override {
    if (!class_->mode)
      return Mode::Invert;
    const std::string name = object_->getSlot(*class_->mode).toStringRef();
    if (name == abi::kInvert)
      return Mode::Invert;
    if (name == abi::kRecompute)
      return Mode::Recompute;
    TORCH_CHECK(name == abi::kStore, "inv: step ", origin(), ": mode is '",
                name, "', not 'invert', 'recompute' or 'store'");
    return Mode::Store;
  }
  bool preserveRng() const override {
    return !class_->preserveRng ||
           object_->getSlot(*class_->preserveRng).toBool();
  }
  std::string origin() const override {
    return class_->origin ? object_->getSlot(*class_->origin).toStringRef()
                          : std::string();
  }

private:
  static inline const std::vector<double> kNoTies;

  /// `captures` are the arguments from number `firstCapture` on, and `extras`
  /// those behind them.
  static std::string choiceAt(const MethodFacts& facts, size_t i,
                              size_t firstCapture, const Tensors& captures,
                              const Extras& extras) {
    if (i >= facts.arguments.size())
      return {};
    const ArgumentFacts& argument = facts.arguments[i];
    if (argument.choice.empty())
      for (size_t k : argument.castTo)
        if (k >= firstCapture &&
            castsToIntegers(k - firstCapture, captures, extras))
          return "a cast to integers";
    return argument.choice;
  }

  /// A cast to the dtype of capture number `i`, or to the dtype that an extra
  /// names.
  static bool castsToIntegers(size_t i, const Tensors& captures,
                              const Extras& extras) {
    if (i < captures.size())
      return !captures[i].is_floating_point();
    const size_t extra = i - captures.size();
    return extra < extras.size() && extras[extra].isInt() &&
           !c10::isFloatingType(
               static_cast<at::ScalarType>(extras[extra].toInt()));
  }

  static const std::vector<double>& tiesAt(const MethodFacts& facts, size_t i) {
    return i < facts.arguments.size() ? facts.arguments[i].ties : kNoTies;
  }

  /// Those that the function takes.
  Tensors taken(const Tensors& captures) const {
    Tensors result;
    for (int64_t i : layout().functionCaptures)
      result.push_back(captures.at(static_cast<size_t>(i)));
    return result;
  }

  /// Does the function take capture number `i`?
  static bool takes(const StepLayout& layout, size_t i) {
    const auto& list = layout.functionCaptures;
    return layout.functionCapturesAll ||
           std::find(list.begin(), list.end(), static_cast<int64_t>(i)) !=
               list.end();
  }

  /// Calls a method; `expected` results, or any number if negative.
  Tensors run(Function* method, const char* name,
              std::initializer_list<Tensors*> tensors, const Extras& extras,
              int64_t expected) const {
    TORCH_CHECK(method, "inv: class ", object_->type()->name()->qualifiedName(),
                " of step ", origin(), " has no method '", name, "'");
    torch::jit::Stack stack;
    stack.emplace_back(object_);
    // Moved, so that the method's own last use frees an argument.
    for (Tensors* list : tensors) {
      for (at::Tensor& t : *list)
        stack.emplace_back(std::move(t));
      list->clear();
    }
    for (const c10::IValue& e : extras)
      stack.emplace_back(e);
    const size_t wanted = method->getSchema().arguments().size();
    TORCH_CHECK(stack.size() == wanted, "inv: step ", origin(), ": method '",
                name, "' takes ", wanted, " arguments with self, the call has ",
                stack.size());
    runFixed(*method, stack);
    Tensors result = unpack(std::move(stack.back()));
    TORCH_CHECK(expected < 0 || static_cast<int64_t>(result.size()) == expected,
                "inv: step ", origin(), ": method '", name, "' returned ",
                result.size(), " tensors, its class says ", expected);
    return result;
  }

  static Tensors unpack(c10::IValue value) {
    Tensors result;
    if (value.isTensor()) {
      result.push_back(std::move(value).toTensor());
    } else if (value.isTensorList()) {
      result = value.toTensorVector();
    } else if (!value.isNone()) {
      for (const c10::IValue& e : value.toTupleRef().elements())
        result.push_back(e.toTensor());
    }
    return result;
  }

  c10::intrusive_ptr<c10::ivalue::Object> object_;
  std::shared_ptr<const StepClass> class_;
};

} // namespace

std::shared_ptr<const StepFunctions> scriptStep(StepKind kind,
                                                const c10::IValue& object) {
  TORCH_CHECK(object.isObject(), opName(kind),
              ": the first argument must be a step, an object of a class that "
              "inv-opt wrote; got ",
              object.tagKind());
  auto obj = object.toObject();
  auto stepClass = classOf(obj->type());
  const char* missing =
      kind == StepKind::Bijection ? abi::kFunction : abi::kConditioner;
  TORCH_CHECK(kind == StepKind::Bijection ? stepClass->function
                                          : stepClass->conditioner,
              opName(kind), ": class ", obj->type()->name()->qualifiedName(),
              " is not a step: it has no method '", missing,
              "'. (torch.jit.freeze and the mobile format drop the methods of "
              "steps; inv-opt --passes=inline-steps writes an archive in which "
              "they are plain code.)");
  return std::make_shared<ScriptStep>(std::move(obj), std::move(stepClass));
}

} // namespace inv
