#include "TieSearch.h"

#include "Continuity.h"

#include "inv/Abi.h"

#include <ATen/core/class_type.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

namespace inv {
namespace {

namespace jit = torch::jit;

/// An element of a value as a function of an element of the argument:
/// scale * element + shift.
struct Line {
  double scale = 1, shift = 0;
  bool operator==(const Line&) const = default;
};

/// How a value depends on the argument. A value may hold elements of several
/// kinds; forms only ever grow.
struct Form {
  std::vector<Line> lines;
  bool mixed = false; ///< some other function of it
  /// A difference of elements, or what nobody followed: where it meets a kink,
  /// elements that are equal matter, whatever their value.
  bool lost = false;

  bool join(const Form& other) {
    const Form before = *this;
    for (const Line& line : other.lines)
      if (std::find(lines.begin(), lines.end(), line) == lines.end())
        lines.push_back(line);
    mixed = mixed || other.mixed;
    constexpr size_t kMost = 8; // a loop may make ever more
    lost = lost || other.lost || lines.size() > kMost;
    if (lost)
      lines.clear();
    return lines != before.lines || mixed != before.mixed ||
           lost != before.lost;
  }
  bool isLinear() const { return !lines.empty() && !mixed && !lost; }
};

const Form kMixed = {{}, true, false};
const Form kLost = {{}, false, true};

bool isTensor(const jit::Value* v) {
  return v->type()->isSubtypeOf(*c10::TensorType::get());
}

/// Sizes and the like are not values of a tensor.
bool isCount(const jit::Value* v) {
  const auto kind = v->type()->kind();
  return kind == c10::TypeKind::IntType || kind == c10::TypeKind::BoolType ||
         kind == c10::TypeKind::DeviceObjType ||
         kind == c10::TypeKind::StringType || kind == c10::TypeKind::NoneType ||
         v->type()->isSubtypeOf(*c10::ListType::ofInts());
}

class Search {
public:
  Search(const jit::Graph& graph, size_t i, ArgumentFacts& facts)
      : graph_(graph), facts_(facts) {
    forms_[graph.inputs()[i + 1]].lines = {Line()};
  }

  void run() {
    do {
      grew_ = false;
      visit(*graph_.block());
    } while (grew_);
  }

private:
  void visit(const jit::Block& block) {
    for (const jit::Node* n : block.nodes()) {
      for (const jit::Block* inner : n->blocks()) {
        if (dependsOn(n->inputs())) // a loop's values
          give(inner->inputs(), formOf(n->inputs()));
        visit(*inner);
        if (dependsOn(inner->outputs())) {
          give(n->outputs(), formOf(inner->outputs()));
          give(inner->inputs(), formOf(inner->outputs()));
        }
      }
      if (dependsOn(n->inputs()))
        visit(*n);
    }
  }

  void visit(const jit::Node& n) {
    if (n.kind().is_prim()) {
      visitPrim(n);
    } else if (isStep(n)) {
      visitStep(n);
    } else {
      const Continuity continuity =
          isLayout(n) ? Continuity::Moves : continuityOf(n);
      if (continuity == Continuity::Chooses)
        choose(n);
      if (continuity == Continuity::Kinked && !isSmoothHere(n))
        meetKinks(n, formOf(n.inputs()), kinksOf(n));
      if (continuity != Continuity::Ignores) {
        noteCasts(n);
        give(n.outputs(), continuity == Continuity::Moves
                              ? formOf(n.inputs())
                              : computed(n, continuity));
      }
    }
    noteWrites(n);
  }

  /// Those that put values into others and take them out again.
  void visitPrim(const jit::Node& n) {
    static const std::unordered_set<c10::Symbol> known = {
        c10::prim::ListConstruct,
        c10::prim::ListUnpack,
        c10::prim::TupleConstruct,
        c10::prim::TupleUnpack,
        c10::prim::TupleIndex,
        c10::prim::TupleSlice,
        c10::prim::DictConstruct,
        c10::prim::ConstantChunk,
        c10::prim::NumToTensor,
        c10::prim::If,
        c10::prim::Loop,
        c10::prim::unchecked_cast,
        c10::Symbol::prim("unchecked_unwrap_optional"),
        c10::Symbol::prim("data"),
        c10::prim::dtype,
        c10::prim::device,
        c10::prim::layout,
        c10::prim::is_cuda,
        c10::Symbol::prim("is_cpu"),
        c10::Symbol::prim("is_sparse"),
        c10::Symbol::prim("shape"),
        c10::Symbol::prim("is_quantized"),
        c10::Symbol::prim("is_mkldnn"),
        c10::Symbol::prim("is_xpu"),
        c10::Symbol::prim("is_meta"),
        c10::prim::requires_grad,
        c10::prim::isinstance,
        c10::prim::RaiseException,
        c10::prim::Print};
    if (known.count(n.kind()) == 0)
      choose(n);
    give(n.outputs(), formOf(n.inputs()));
  }

  /// inv::resplit and the like.
  static bool isLayout(const jit::Node& n) {
    static const std::unordered_set<c10::Symbol> all = {
        c10::Symbol::fromQualString(abi::kResplit),
        c10::Symbol::fromQualString(abi::kAsPiece)};
    return all.count(n.kind()) != 0;
  }
  static bool isStep(const jit::Node& n) {
    static const std::unordered_set<c10::Symbol> all = {
        c10::Symbol::fromQualString(abi::kCoupling),
        c10::Symbol::fromQualString(abi::kBijection),
        c10::Symbol::fromQualString(abi::kCheckpoint)};
    return all.count(n.kind()) != 0;
  }

  /// A step inside of the step: whatever its methods do, with any argument.
  void visitStep(const jit::Node& n) {
    const auto type = n.input(0)->type()->cast<c10::ClassType>();
    if (!type)
      choose(n);
    for (const char* name : {abi::kConditioner, abi::kFunction}) {
      jit::Function* method = type ? type->findMethod(name) : nullptr;
      if (!method)
        continue;
      for (const ArgumentFacts& facts : analyzeMethod(*method).arguments) {
        if (!facts.choice.empty() || !facts.castTo.empty())
          choose(n, facts.choice);
        if (!facts.ties.empty())
          meetKinks(n, formOf(n.inputs()), facts.ties);
      }
    }
    give(n.outputs(), kMixed);
  }

  /// A quotient whose divisor does not depend on the argument; a power that is
  /// a product.
  bool isSmoothHere(const jit::Node& n) const {
    const std::string name = n.kind().toUnqualString();
    if (name == "div" || name == "div_" || name == "true_divide")
      return forms_.count(n.input(1)) == 0 && n.inputs().size() == 2;
    if (name != "pow" && name != "pow_")
      return false;
    const auto exponent = constantNumber(n, 1);
    return exponent && *exponent >= 1 && *exponent == std::floor(*exponent);
  }

  void choose(const jit::Node& n, const std::string& name = {}) {
    if (facts_.choice.empty())
      facts_.choice = name.empty() ? n.kind().toQualString() : name;
  }

  void meetKinks(const jit::Node& n, const Form& form,
                 const std::optional<std::vector<double>>& kinks) {
    if (form.lost || !kinks) // or a clamp at what only a run knows
      return choose(n);
    tie(0); // that much of a mixed value is structure: zeros stay zeros
    for (const Line& line : form.lines)
      for (double kink : *kinks)
        if (line.scale != 0)
          tie((kink - line.shift) / line.scale);
  }

  void tie(double value) {
    if (std::isfinite(value) &&
        std::find(facts_.ties.begin(), facts_.ties.end(), value) ==
            facts_.ties.end())
      facts_.ties.push_back(value);
  }

  /// A cast to a floating type is none: those to others are choices.
  void noteCasts(const jit::Node& n) {
    const c10::FunctionSchema* schema = n.maybeSchema();
    if (!schema)
      return; // chooses
    const std::string name = n.kind().toUnqualString();
    if (name == "type_as")
      noteCastLike(n, n.input(1));
    for (size_t i = 0; i < n.inputs().size(); i++) {
      const std::string& argument = schema->arguments().at(i).name();
      if (argument == "other" && name == "to")
        noteCastLike(n, n.input(i));
      if (argument == "dtype" && !n.input(i)->mustBeNone())
        noteCastTo(n, n.input(i));
    }
    // These cast what they put into their first argument to its dtype.
    static const std::unordered_set<std::string> into = {
        "copy",           "copy_",         "fill",
        "fill_",          "masked_fill",   "masked_fill_",
        "index_put",      "index_put_",    "masked_scatter",
        "select_scatter", "slice_scatter", "masked_scatter_",
        "index_fill",     "index_fill_",   "diagonal_scatter"};
    if (into.count(name) != 0 && forms_.count(n.input(0)) == 0)
      notePutInto(n, n.input(0));
  }

  void noteCastTo(const jit::Node& n, const jit::Value* dtype) {
    const auto constant = jit::toIValue(dtype);
    if (constant && constant->isInt()) {
      if (!isFloating(static_cast<at::ScalarType>(constant->toInt())))
        choose(n);
    } else if (isArgument(dtype)) {
      noteCastToArgument(dtype);
    } else if (dtype->node()->kind() == c10::prim::dtype) {
      noteCastLike(n, dtype->node()->input(0));
    } else {
      choose(n);
    }
  }

  /// `v` did not depend on the argument before: memory that was just made, or
  /// somebody else's.
  void notePutInto(const jit::Node& n, const jit::Value* v) {
    const jit::Node* made = v->node();
    while (v->node() != graph_.param_node() && !made->kind().is_prim() &&
           !made->inputs().empty() &&
           mayReturnArgument(*made, made->maybeSchema(), 0)) {
      v = made->input(0); // a view of it
      made = v->node();
    }
    const std::string name = made->kind().toUnqualString();
    const bool isLike =
        name.find("_like") != name.npos || name.find("new_") == 0;
    if (!isLike && name != "zeros" && name != "ones" && name != "empty" &&
        name != "empty_strided")
      return noteCastLike(n, v);
    const jit::Value* dtype = inputNamed(*made, "dtype");
    if (dtype && !dtype->mustBeNone())
      noteCastTo(n, dtype);
    else if (isLike)
      noteCastLike(n, made->input(0));
    // Else it has the default dtype, a floating one.
  }

  static const jit::Value* inputNamed(const jit::Node& n, const char* name) {
    const c10::FunctionSchema* schema = n.maybeSchema();
    for (size_t i = 0; schema && i < n.inputs().size(); i++)
      if (schema->arguments().at(i).name() == name)
        return n.input(i);
    return nullptr;
  }

  static bool isFloating(at::ScalarType type) {
    return c10::isFloatingType(type) || c10::isComplexType(type);
  }

  bool isArgument(const jit::Value* v) const {
    return v->node() == graph_.param_node() && v->offset() > 0;
  }

  void noteCastToArgument(const jit::Value* v) {
    const size_t i = v->offset() - 1;
    if (std::find(facts_.castTo.begin(), facts_.castTo.end(), i) ==
        facts_.castTo.end())
      facts_.castTo.push_back(i);
  }

  /// To the dtype of `v`: that of an argument is looked at when it is known.
  void noteCastLike(const jit::Node& n, const jit::Value* v) {
    if (isArgument(v))
      return noteCastToArgument(v);
    // What depends on the state without a choice is floating as it is.
    if (forms_.count(v) == 0)
      choose(n);
  }

  /// The result of an operator that computes.
  Form computed(const jit::Node& n, Continuity continuity) {
    const std::string name = n.kind().toUnqualString();
    if (continuity != Continuity::Smooth && name != "div" && name != "div_")
      return kMixed;
    const auto is = [&](const char* base) {
      return name == base || name == std::string(base) + "_";
    };
    if (is("neg"))
      return mapped(formOf(n.inputs()), -1, 0);
    const bool sum = is("add") || is("sub") || is("rsub");
    if (!(sum || is("mul") || is("div")) || !isTensor(n.input(0)))
      return kMixed;
    if (formOf(n.input(0)).isLinear() && formOf(n.input(1)).isLinear())
      return kLost; // elements compared with one another
    const bool first = forms_.count(n.input(0)) != 0;
    const Form& form = formOf(n.input(first ? 0 : 1));
    const auto number = constantNumber(n, first ? 1 : 0);
    const auto alpha = sum && n.inputs().size() > 2 ? constantNumber(n, 2)
                                                    : std::optional<double>(1);
    if (!number || !alpha || !form.isLinear())
      return kMixed;
    if (is("mul"))
      return mapped(form, *number, 0);
    if (is("div"))
      return first && *number != 0 ? mapped(form, 1 / *number, 0) : kMixed;
    // a + alpha b, a - alpha b; rsub is b - alpha a
    if (is("rsub"))
      return first ? mapped(form, -*alpha, *number) : kMixed;
    const double sign = is("sub") ? -1 : 1;
    return first ? mapped(form, 1, sign * *alpha * *number)
                 : mapped(form, sign * *alpha, *number);
  }

  static Form mapped(Form form, double scale, double shift) {
    for (Line& line : form.lines)
      line = {scale * line.scale, scale * line.shift + shift};
    return form;
  }

  /// A tensor that is written has the result's values for its readers too, and
  /// so has whatever shares its memory; a list that something is put into holds
  /// it.
  void noteWrites(const jit::Node& n) {
    const c10::FunctionSchema* schema = n.maybeSchema();
    if (!schema)
      return;
    for (size_t i = 0; i < n.inputs().size(); i++)
      if (writesArgument(*schema, i))
        share(n.input(i), isTensor(n.input(i)) && !n.outputs().empty()
                              ? formOf(n.outputs())
                              : formOf(n.inputs()));
  }

  /// Gives `form` to `v` and to what it may be a view of; the other views of
  /// that get it in the next round.
  void share(const jit::Value* v, const Form& form) {
    give({v}, form);
    const jit::Node* made = v->node();
    if (made == graph_.param_node())
      return;
    const c10::FunctionSchema* schema = made->maybeSchema();
    for (size_t i = 0; i < made->inputs().size(); i++)
      if (mayReturnArgument(*made, schema, i))
        share(made->input(i), form);
    for (const jit::Block* inner : made->blocks())
      for (const jit::Value* output : inner->outputs())
        share(output, form);
  }

  bool dependsOn(c10::ArrayRef<const jit::Value*> values) const {
    return std::any_of(values.begin(), values.end(), [&](const jit::Value* v) {
      return forms_.count(v) != 0;
    });
  }

  Form formOf(const jit::Value* v) const {
    const auto found = forms_.find(v);
    return found == forms_.end() ? Form() : found->second;
  }
  Form formOf(c10::ArrayRef<const jit::Value*> values) const {
    Form result;
    for (const jit::Value* v : values)
      result.join(formOf(v));
    return result;
  }

  void give(c10::ArrayRef<const jit::Value*> values, const Form& form) {
    for (const jit::Value* v : values) {
      if (isCount(v))
        continue;
      const auto [place, isNew] = forms_.try_emplace(v);
      grew_ = place->second.join(form) || isNew || grew_;
    }
  }

  const jit::Graph& graph_;
  ArgumentFacts& facts_;
  std::unordered_map<const jit::Value*, Form> forms_;
  bool grew_ = false;
};

} // namespace

void searchTies(const jit::Graph& graph, size_t i, ArgumentFacts& facts) {
  if (isTensor(graph.inputs()[i + 1]))
    Search(graph, i, facts).run();
}

} // namespace inv
