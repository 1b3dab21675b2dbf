#include "StepAnalysis.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_set>

namespace inv {
namespace {

namespace jit = torch::jit;

const char* const kChoices[] = {"argmax",       "argmin",
                                "argsort",      "sort",
                                "msort",        "topk",
                                "kthvalue",     "median",
                                "nanmedian",    "mode",
                                "round",        "floor",
                                "ceil",         "trunc",
                                "fix",          "frac",
                                "floor_divide", "fmod",
                                "remainder",    "sign",
                                "sgn",          "signbit",
                                "heaviside",    "bucketize",
                                "searchsorted", "digitize",
                                "histc",        "unique",
                                "_unique2",     "unique_dim",
                                "nonzero",      "count_nonzero",
                                "isclose",      "multinomial",
                                "bernoulli",    "gt",
                                "lt",           "ge",
                                "le",           "eq",
                                "ne",           "greater",
                                "less",         "greater_equal",
                                "less_equal",   "equal",
                                "not_equal",    "logical_not",
                                "logical_and",  "logical_or",
                                "logical_xor",  "allclose",
                                "any",          "all",
                                "Int",          "Bool",
                                "IntImplicit",  "item",
                                "long",         "int",
                                "is_nonzero",   "_local_scalar_dense"};

/// Operators whose results and derivatives are smooth in their tensors, or that
/// only move elements.
const char* const kSmooth[] = {"linear",
                               "matmul",
                               "mm",
                               "bmm",
                               "addmm",
                               "baddbmm",
                               "mv",
                               "einsum",
                               "conv1d",
                               "conv2d",
                               "conv3d",
                               "_convolution",
                               "convolution",
                               "conv_transpose1d",
                               "conv_transpose2d",
                               "conv_transpose3d",
                               "add",
                               "sub",
                               "mul",
                               "neg",
                               "addcmul",
                               "lerp",
                               "tanh",
                               "sigmoid",
                               "silu",
                               "gelu",
                               "mish",
                               "softplus",
                               "logsigmoid",
                               "log_sigmoid",
                               "softmax",
                               "log_softmax",
                               "logsumexp",
                               "exp",
                               "expm1",
                               "sin",
                               "cos",
                               "erf",
                               "square",
                               "layer_norm",
                               "group_norm",
                               "dropout",
                               "alpha_dropout",
                               "feature_dropout",
                               "mean",
                               "sum",
                               "cumsum",
                               "avg_pool1d",
                               "avg_pool2d",
                               "avg_pool3d",
                               "adaptive_avg_pool1d",
                               "adaptive_avg_pool2d",
                               "adaptive_avg_pool3d",
                               "scaled_dot_product_attention",
                               "lstm",
                               "gru",
                               "rnn_tanh",
                               "view",
                               "reshape",
                               "flatten",
                               "unflatten",
                               "permute",
                               "transpose",
                               "t",
                               "movedim",
                               "squeeze",
                               "unsqueeze",
                               "expand",
                               "expand_as",
                               "repeat",
                               "chunk",
                               "split",
                               "split_with_sizes",
                               "tensor_split",
                               "unbind",
                               "select",
                               "slice",
                               "narrow",
                               "index_select",
                               "gather",
                               "cat",
                               "concat",
                               "stack",
                               "contiguous",
                               "clone",
                               "detach",
                               "to",
                               "type_as",
                               "float",
                               "double",
                               "size",
                               "dim",
                               "numel",
                               "len",
                               "stride",
                               "pixel_shuffle",
                               "pixel_unshuffle",
                               "roll",
                               "flip",
                               "constant_pad_nd",
                               "pad",
                               "zeros_like",
                               "ones_like",
                               "empty_like",
                               "is_floating_point",
                               "__getitem__"};

template <size_t kCount>
std::unordered_set<c10::Symbol> symbols(const char* const (&names)[kCount]) {
  std::unordered_set<c10::Symbol> result;
  for (const char* name : names)
    result.insert(c10::Symbol::aten(name));
  return result;
}

/// Whether a node that takes a tensor makes a discrete choice. (Comparisons of
/// sizes take none.)
bool isChoice(const jit::Node& n) {
  static const auto* all =
      new std::unordered_set<c10::Symbol>(symbols(kChoices));
  return all->count(n.kind()) != 0 &&
         std::any_of(n.inputs().begin(), n.inputs().end(),
                     [](const jit::Value* v) {
                       return v->type()->isSubtypeOf(*c10::TensorType::get());
                     });
}

bool isSmooth(const jit::Node& n) {
  static const auto* all =
      new std::unordered_set<c10::Symbol>(symbols(kSmooth));
  return all->count(n.kind()) != 0;
}

class Analyzer {
public:
  explicit Analyzer(const jit::Graph& graph) : graph_(graph) {
    facts_.arguments.resize(graph.inputs().size() - 1);
  }

  MethodFacts run() {
    visit(*graph_.block());
    for (size_t i = 0; i < facts_.arguments.size(); i++)
      trace(i);
    return std::move(facts_);
  }

private:
  void visit(const jit::Block& block) {
    for (const jit::Node* n : block.nodes()) {
      visit(*n);
      for (const jit::Block* inner : n->blocks())
        visit(*inner);
    }
    for (const jit::Value* v : block.outputs())
      noteRead(v);
  }

  void visit(const jit::Node& n) {
    const c10::FunctionSchema* schema = n.maybeSchema();
    facts_.mayDraw = facts_.mayDraw || mayDraw(n, schema);
    const bool norm = n.kind() == c10::aten::batch_norm ||
                      n.kind() == c10::aten::instance_norm;
    constexpr size_t kMean = 3, kVar = 4, kTraining = 5;
    for (size_t i = 0; i < n.inputs().size(); i++) {
      if (norm && (i == kMean || i == kVar))
        noteStatistics(n.input(i), n.input(kTraining));
      else
        noteUse(n.input(i), schema && writes(*schema, i));
    }
  }

  static bool writes(const c10::FunctionSchema& schema, size_t i) {
    if (i >= schema.arguments().size())
      return false;
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    return alias && alias->isWrite();
  }

  static bool mayDraw(const jit::Node& n, const c10::FunctionSchema* schema) {
    if (n.kind() == c10::prim::CallMethod ||
        n.kind() == c10::prim::CallFunction || n.kind() == c10::prim::fork)
      return true;
    if (!schema || n.kind().is_prim())
      return false;
    // Recurrent networks drop out between their layers and have no tag.
    static const std::array recurrent = {c10::aten::lstm, c10::aten::gru,
                                         c10::aten::rnn_tanh,
                                         c10::aten::rnn_relu};
    if (!n.kind().is_aten() || std::find(recurrent.begin(), recurrent.end(),
                                         n.kind()) != recurrent.end())
      return true;
    const auto op = c10::Dispatcher::singleton().findOp(
        {schema->name(), schema->overload_name()});
    return op && op->hasTag(at::Tag::nondeterministic_seeded);
  }

  /// The argument's number if `v` is one.
  std::optional<size_t> argument(const jit::Value* v) const {
    if (v->node() != graph_.param_node() || v->offset() == 0)
      return std::nullopt;
    return v->offset() - 1;
  }

  void noteRead(const jit::Value* v) { noteUse(v, false); }

  void noteUse(const jit::Value* v, bool written) {
    if (const auto i = argument(v)) {
      facts_.arguments[*i].read = true;
      facts_.arguments[*i].written |= written;
    }
  }

  /// In training batch norm only writes its running statistics, in evaluation
  /// it only reads them.
  void noteStatistics(const jit::Value* v, const jit::Value* training) {
    const auto i = argument(v);
    if (!i)
      return;
    ArgumentFacts& facts = facts_.arguments[*i];
    if (const auto constant = jit::toIValue(training);
        constant && constant->isBool()) {
      (constant->toBool() ? facts.written : facts.read) = true;
      return;
    }
    facts.written = true;
    if (const auto flag = argument(training))
      facts.readUnless.push_back(*flag);
    else
      facts.read = true;
  }

  /// Follows the values that depend on argument `i`, to a fixed point.
  void trace(size_t i) {
    reached_ = {graph_.inputs()[i + 1]};
    size_t before = 0;
    while (before != reached_.size()) {
      before = reached_.size();
      trace(*graph_.block(), facts_.arguments[i]);
    }
  }

  void trace(const jit::Block& block, ArgumentFacts& facts) {
    for (const jit::Node* n : block.nodes()) {
      bool depends = dependsOn(n->inputs());
      for (const jit::Block* inner : n->blocks()) {
        if (depends) // a loop's values
          reach(inner->inputs());
        trace(*inner, facts);
        depends = depends || dependsOn(inner->outputs());
      }
      if (!depends)
        continue;
      if (n->kind().is_aten()) {
        facts.chooses = facts.chooses || isChoice(*n);
        facts.kinks = facts.kinks || !isSmooth(*n);
      } else if (!n->kind().is_prim()) {
        facts.kinks = true;
      }
      reach(n->outputs());
    }
  }

  bool dependsOn(c10::ArrayRef<const jit::Value*> values) const {
    return std::any_of(values.begin(), values.end(), [&](const jit::Value* v) {
      return reached_.count(v) != 0;
    });
  }
  /// Sizes and the like are not values of a tensor.
  void reach(c10::ArrayRef<const jit::Value*> values) {
    for (const jit::Value* v : values) {
      const auto kind = v->type()->kind();
      const bool count = kind == c10::TypeKind::IntType ||
                         kind == c10::TypeKind::BoolType ||
                         kind == c10::TypeKind::DeviceObjType ||
                         kind == c10::TypeKind::StringType ||
                         v->type()->isSubtypeOf(*c10::ListType::ofInts());
      if (!count)
        reached_.insert(v);
    }
  }

  const jit::Graph& graph_;
  MethodFacts facts_;
  std::unordered_set<const jit::Value*> reached_;
};

} // namespace

MethodFacts analyzeMethod(jit::Function& method) {
  auto& function = jit::toGraphFunction(method);
  function.ensure_defined();
  return Analyzer(*function.optimized_graph()).run(); // inlined
}

} // namespace inv
