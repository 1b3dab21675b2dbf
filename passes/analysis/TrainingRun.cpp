#include "passes/analysis/TrainingRun.h"

#include "inv/Abi.h"
#include "passes/support/GraphUtil.h"
#include "passes/support/SavedTensors.h"
#include "passes/support/Symbols.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/chunk.h>
#include <ATen/ops/split.h>
#include <ATen/ops/split_with_sizes.h>
#include <ATen/ops/tensor_split.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <unordered_map>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

using StorageKey = const c10::StorageImpl*;

StorageKey keyOf(const at::Tensor& t) {
  return t.has_storage() ? t.storage().unsafeGetStorageImpl() : nullptr;
}

/// Every tensor in `value`, looking into lists, tuples and dictionaries.
void forEachTensor(const c10::IValue& value,
                   const std::function<void(const at::Tensor&)>& visit) {
  value.visit([&](const c10::IValue& part) {
    if (part.isTensor() && part.toTensor().defined())
      visit(part.toTensor());
    return part.isObject() || part.isModule(); // true: look no deeper
  });
}

/// Watches the run node by node.
class Watch {
public:
  Watch(const ValueMap& values, std::vector<KeptStorage>& kept,
        std::vector<const Node*>& silent,
        std::unordered_set<const void*>& there,
        std::unordered_map<const void*, int64_t>& sizes)
      : values_(values), kept_(kept), silent_(silent), there_(there),
        sizes_(sizes) {}

  /// Storages that are there before the run and stay: of the module.
  void isThere(const at::Tensor& t) {
    hold_.push_back(t);
    there_.insert(keyOf(t));
  }

  void see(const Value* v, bool isConstant = false) {
    forEachTensor(values_.at(v), [&](const at::Tensor& t) {
      if (isConstant) // made with the graph, not by the call
        isThere(t);
      hold_.push_back(t); // so that no address is used twice
      if (StorageKey key = keyOf(t))
        sizes_.insert({key, int64_t(t.storage().nbytes())});
      if (StorageKey key = keyOf(t); key && !there_.count(key))
        first_.insert({key, v});
    });
  }

  void begins(const Block* block) {
    running_.emplace_back();
    running_.back().block = block;
  }

  /// Notes the tensors of the block while they are those of this run.
  void ended(const Block* block) {
    auto [at, fresh] = read_.try_emplace(block);
    if (fresh)
      at->second = valuesOf(block);
    BlockRun run = std::move(running_.back());
    running_.pop_back();
    for (const Value* v : at->second) {
      const auto found = values_.find(v);
      if (found != values_.end() && found->second.isTensor() &&
          found->second.toTensor().defined())
        run.storages[v] = keyOf(found->second.toTensor());
    }
    if (running_.empty())
      whole_ = std::move(run);
    else
      running_.back().inner.push_back(std::move(run));
  }

  BlockRun takeRun() { return std::move(whole_); }

  void after(const Node* n) {
    for (const Value* out : n->outputs())
      see(out, n->kind() == prim::Constant);
    for (const Value* out : n->outputs())
      forEachTensor(values_.at(out), [&](const at::Tensor& t) {
        for (const auto& node : walk_.newNodes(t))
          keep(n, node);
      });
  }

private:
  void keep(const Node* n, const std::shared_ptr<torch::autograd::Node>& node) {
    const auto saved = savedTensors(node);
    if (!saved) {
      if (silent_.empty() || silent_.back() != n)
        silent_.push_back(n);
      return;
    }
    for (const at::Tensor& t : *saved)
      if (StorageKey key = keyOf(t); key && !there_.count(key))
        keep(n, t, key);
  }

  void keep(const Node* n, const at::Tensor& t, StorageKey key) {
    hold_.push_back(t);
    auto [at, fresh] = index_.insert({key, kept_.size()});
    if (fresh) {
      kept_.emplace_back();
      kept_.back().storage = key;
      kept_.back().bytes = int64_t(t.storage().nbytes());
      auto seen = first_.find(key);
      kept_.back().value = seen == first_.end() ? nullptr : seen->second;
    }
    auto& savers = kept_[at->second].savers;
    if (savers.empty() || savers.back() != n)
      savers.push_back(n);
  }

  /// Elements of lists and tuples included, wherever these were made.
  static std::vector<const Value*> valuesOf(const Block* block) {
    std::vector<const Value*> values(block->inputs().begin(),
                                     block->inputs().end());
    for (const Node* n : block->nodes()) {
      values.insert(values.end(), n->inputs().begin(), n->inputs().end());
      values.insert(values.end(), n->outputs().begin(), n->outputs().end());
    }
    values.insert(values.end(), block->outputs().begin(),
                  block->outputs().end());
    for (size_t i = 0; i < values.size(); ++i)
      if (const Node* maker = values[i]->node();
          (maker->kind() == prim::ListConstruct ||
           maker->kind() == prim::TupleConstruct) &&
          maker->owningBlock() != block)
        values.insert(values.end(), maker->inputs().begin(),
                      maker->inputs().end());
    return values;
  }

  const ValueMap& values_;
  std::vector<KeptStorage>& kept_;
  std::vector<const Node*>& silent_;
  std::unordered_set<const void*>& there_;
  std::unordered_map<const void*, int64_t>& sizes_;
  std::vector<BlockRun> running_;
  BlockRun whole_;
  std::unordered_map<const Block*, std::vector<const Value*>> read_;
  std::vector<at::Tensor> hold_;
  std::unordered_map<StorageKey, const Value*> first_;
  std::unordered_map<StorageKey, size_t> index_;
  AutogradWalk walk_;
};

/// inv::resplit(parts, parts_dim, how, args, dim) as it is defined, and
/// inv::as_piece, which then has nothing to do. False for other nodes.
bool runAsWritten(const Node* n, ValueMap& env) {
  if (n->kind() == sym::asPiece()) {
    env[n->output()] = env.at(n->input(0));
    return true;
  }
  if (n->kind() != sym::resplit())
    return false;
  const at::Tensor whole = at::cat(env.at(n->input(0)).toTensorVector(),
                                   env.at(n->input(1)).toInt());
  const std::string how = env.at(n->input(2)).toStringRef();
  const std::vector<int64_t> arguments = env.at(n->input(3)).toIntVector();
  const int64_t dim = env.at(n->input(4)).toInt();
  std::vector<at::Tensor> pieces;
  if (how == "chunk")
    pieces = at::chunk(whole, arguments.at(0), dim);
  else if (how == "split")
    pieces = at::split(whole, arguments.at(0), dim);
  else if (how == "split_with_sizes")
    pieces = at::split_with_sizes(whole, arguments, dim);
  else if (how == abi::kTensorSplitSections)
    pieces = at::tensor_split(whole, arguments.at(0), dim);
  else
    pieces = at::tensor_split(whole, c10::IntArrayRef(arguments), dim);
  env[n->output()] = std::move(pieces);
  return true;
}

/// Tensor constants of the method that a node calls.
std::vector<at::Tensor> constantsOf(const Node* call) {
  const auto type = call->input(0)->type()->expect<c10::ClassType>();
  auto graph =
      toGraphFunction(type->getMethod(call->s(attr::name))).graph()->copy();
  Inline(*graph);
  std::vector<at::Tensor> constants;
  for (const Node* n : allNodes(graph->block()))
    if (n->kind() == prim::Constant)
      if (const auto value = toIValue(n->output()); value && value->isTensor())
        constants.push_back(value->toTensor());
  return constants;
}

} // namespace

TrainingRun::TrainingRun(const Graph& graph,
                         const std::vector<c10::IValue>& inputs,
                         Streams streams) {
  c10::AutoGradMode grad(true);
  // On a copy: a training run writes running statistics.
  Module module = Module(inputs.at(0).toObject()).deepcopy();
  std::vector<c10::IValue> arguments{module._ivalue()};
  for (size_t i = 1; i < inputs.size(); ++i) {
    c10::IValue argument = inputs[i];
    if (argument.isTensor() && argument.toTensor().defined()) {
      at::Tensor t = argument.toTensor().detach();
      // No leaf, or the method could not write it.
      if (t.is_floating_point() || t.is_complex())
        t = t.requires_grad_().clone();
      argument = t;
    }
    arguments.push_back(std::move(argument));
  }
  Watch watch(values_, kept_, silent_, there_, sizes_);
  for (const at::Tensor& t : module.parameters())
    watch.isThere(t);
  for (const auto& attribute : module.named_attributes())
    forEachTensor(attribute.value,
                  [&](const at::Tensor& t) { watch.isThere(t); });
  for (const Node* n : allNodes(const_cast<Graph&>(graph).block()))
    if (n->kind() == prim::CallMethod)
      for (const at::Tensor& t : constantsOf(n))
        watch.isThere(t);
  for (size_t i = 0; i < graph.inputs().size(); ++i) {
    values_[graph.inputs()[i]] = arguments.at(i);
    watch.see(graph.inputs()[i]);
  }
  RunHooks hooks;
  hooks.after = [&watch](const Node* n) { watch.after(n); };
  hooks.begins = [&watch](const Block* b) { watch.begins(b); };
  hooks.ended = [&watch](const Block* b) { watch.ended(b); };
  if (streams == Streams::Copied)
    hooks.instead = runAsWritten;
  runGraph(graph, arguments, &values_, hooks);
  blocks_ = watch.takeRun();
}

const void* TrainingRun::storageOf(const Value* v) const {
  auto found = values_.find(v);
  return found != values_.end() && found->second.isTensor() &&
                 found->second.toTensor().defined()
             ? keyOf(found->second.toTensor())
             : nullptr;
}

int64_t TrainingRun::bytesOf(const Value* v) const {
  return int64_t(values_.at(v).toTensor().storage().nbytes());
}

} // namespace inv::opt
