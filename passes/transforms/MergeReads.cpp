// One value for one attribute, constant, size and integer expression.
//
// Inlining repeats the reads of a module's attributes, the constants and the
// sizes for every call. The analysis asks "is this the same weight, the same
// split point?" by comparing values, so equal reads become one value:
//
//   %f = prim::GetAttr[name="f"](%self)
//   %w = prim::GetAttr[name="weight"](%f)
//   %f.1 = prim::GetAttr[name="f"](%self)
//   %w.1 = prim::GetAttr[name="weight"](%f.1)    ==>  %w for both
//
// What is merged, always into the first read that dominates the other (an outer
// block's values are seen in inner blocks, never those of a sibling):
//   - attributes by path. An attribute whose name some SetAttr of the graph
//     writes is left alone, whatever the object;
//   - constants of number, text, device and None types, and lists of ints;
//     tensors only where they have no dimension and nobody writes them;
//   - sizes, dims, and pure expressions of numbers. A tensor's shape changes
//     only by the few in-place operators that change geometry (squeeze_,
//     resize_, ...): with one of those in the graph, sizes are left alone;
//   - lists of numbers that are only read;
//   - views (slices, selections, transpositions, ...) of a tensor whose storage
//     nothing in the graph writes: x[:, ::2, ::2] and x[:, ::2, 1::2] are two
//     halves of one half.
// Everything merged is deterministic and without effect, so which of the equal
// reads is executed cannot be told.
#include "passes/transforms/MergeReads.h"

#include "passes/analysis/StorageGroups.h"
#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/csrc/jit/ir/constants.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

class Merger {
public:
  explicit Merger(Graph& graph)
      : graph_(graph), groups_(graph, /*joinsApart=*/true) {
    static const std::set<std::string> geometry = {
        "squeeze_", "unsqueeze_", "resize_",   "resize_as_", "t_",
        "set_",     "transpose_", "swapaxes_", "swapdims_",  "as_strided_",
        "detach_",  "swap_axes_", "moveaxis_", "movedim_",   "set_data"};
    for (Node* node : allNodes(graph.block())) {
      if (node->kind() == prim::SetAttr)
        written_.insert(node->s(attr::name));
      if (geometry.count(node->kind().toUnqualString()))
        shapesChange_ = true;
    }
  }

  bool run() {
    visit(graph_.block());
    return changed_;
  }

private:
  using Seen = std::unordered_map<std::string, Value*>;

  void visit(Block* block) {
    scopes_.emplace_back();
    for (auto it = block->nodes().begin(); it != block->nodes().end();) {
      Node* node = *it;
      ++it;
      for (Block* inner : node->blocks())
        visit(inner);
      const std::string key = keyOf(node);
      if (key.empty())
        continue;
      if (Value* first = find(key)) {
        node->output()->replaceAllUsesWith(first);
        node->destroy();
        changed_ = true;
      } else {
        scopes_.back()[key] = node->output();
      }
    }
    scopes_.pop_back();
  }

  Value* find(const std::string& key) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (auto found = scope->find(key); found != scope->end())
        return found->second;
    return nullptr;
  }

  /// Equal keys, equal values; empty where the node is not to be merged.
  std::string keyOf(Node* node) const {
    if (node->outputs().size() != 1 || !node->blocks().empty())
      return "";
    if (node->kind() == prim::Constant)
      return constantKey(node);
    const std::string name = node->kind().toQualString();
    std::string key = name + ":" + node->output()->type()->str();
    for (size_t i = 0; i < node->inputs().size(); ++i)
      key += "," + operandKey(node, i);
    if (node->kind() == prim::GetAttr)
      return written_.count(node->s(attr::name)) ? ""
                                                 : key + node->s(attr::name);
    return isPureNumber(node) || isMergeableView(node) ? key : "";
  }

  /// x[:, 1:], x[:, 1:None] and x[:, 1:9223372036854775807] are one.
  static std::string operandKey(Node* node, size_t i) {
    Value* input = node->input(i);
    const auto isNoneOr = [&](int64_t number) {
      return input->mustBeNone() || constantInt(input) == number;
    };
    if (node->kind() == aten::slice) {
      if (i == 2 && isNoneOr(0))
        return "first";
      if (i == 3 && isNoneOr(std::numeric_limits<int64_t>::max()))
        return "last";
    }
    return std::to_string(input->unique());
  }

  bool isMergeableView(Node* node) const {
    static const std::set<std::string> views = {
        "slice",   "select",    "narrow", "transpose", "t",
        "permute", "unsqueeze", "view",   "movedim"};
    return node->kind().is_aten() &&
           views.count(node->kind().toUnqualString()) != 0 &&
           !groups_.isWritten(node->input(0));
  }

  bool isPureNumber(Node* node) const {
    if (mayHoldTensor(node->output()->type()))
      return false;
    if (node->kind() == prim::ListConstruct)
      return isOnlyRead(node->output());
    if (node->kind() == aten::size || node->kind() == aten::dim)
      return !shapesChange_ && isOnlyRead(node->output());
    const auto* schema = node->maybeSchema();
    if (!schema || node->hasSideEffects() || node->isNondeterministic() ||
        schema->is_mutable() || node->hasAttributes())
      return false;
    // Of numbers only: no list or tensor could have changed in between.
    return std::all_of(node->inputs().begin(), node->inputs().end(),
                       [](Value* input) {
                         const auto kind = input->type()->kind();
                         return kind == c10::TypeKind::IntType ||
                                kind == c10::TypeKind::FloatType ||
                                kind == c10::TypeKind::BoolType ||
                                kind == c10::TypeKind::NumberType ||
                                kind == c10::TypeKind::NoneType;
                       });
  }

  static std::string constantKey(Node* node) {
    Value* output = node->output();
    auto constant = toIValue(output);
    if (!constant)
      return "";
    std::string key = "constant:" + output->type()->str() + ":";
    if (constant->isInt())
      return key + std::to_string(constant->toInt());
    if (constant->isBool())
      return key + (constant->toBool() ? "true" : "false");
    if (constant->isNone())
      return key;
    if (constant->isString())
      return key + constant->toStringRef();
    if (constant->isDevice())
      return key + constant->toDevice().str();
    if (constant->isDouble()) {
      int64_t bits = 0;
      const double number = constant->toDouble();
      std::memcpy(&bits, &number, sizeof bits);
      return key + std::to_string(bits);
    }
    if (constant->isIntList() && isOnlyRead(output)) {
      for (int64_t element : constant->toIntVector())
        key += std::to_string(element) + ",";
      return key;
    }
    if (constant->isTensor())
      return tensorKey(output, constant->toTensor(), key);
    return "";
  }

  static std::string tensorKey(Value* output, const at::Tensor& tensor,
                               const std::string& key) {
    if (!tensor.defined() || tensor.dim() != 0 ||
        tensor.scalar_type() != at::kLong || !tensor.device().is_cpu())
      return "";
    for (const Use& use : output->uses())
      if (!use.user->maybeSchema() || writesOperand(use.user))
        return "";
    return key + std::to_string(tensor.item<int64_t>());
  }

  Graph& graph_;
  const StorageGroups groups_;
  std::set<std::string> written_;
  bool shapesChange_ = false;
  std::vector<Seen> scopes_;
  bool changed_ = false;
};

} // namespace

bool mergeReads(Graph& graph) {
  bool changed = Merger(graph).run();
  changed |= removeDeadNodes(graph);
  return changed;
}

} // namespace inv::opt
