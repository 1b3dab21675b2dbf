// From the nodes of an ONNX graph to a TorchScript method, one after the other.
//
// Each value of the graph is an Operand: a tensor of the method, a constant, or
// numbers (Lowering.h). A node whose operands are all constants is computed at
// once, by lowering it into a graph of its own and running that; one of sizes
// is computed on ints; any other becomes what its row of the table says.
#include "passes/import/onnx/ImportOnnx.h"

#include "passes/import/InlineCalls.h"
#include "passes/import/onnx/OnnxModule.h"
#include "passes/import/onnx/Operators.h"
#include "passes/import/onnx/ReadOnnx.h"
#include "passes/support/Error.h"
#include "passes/support/GraphRunner.h"
#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <map>
#include <set>

#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

constexpr int64_t kMostNumbers = 4096;   ///< elements known as numbers
constexpr int64_t kMostFolded = 1 << 20; ///< elements of a computed constant

/// Whether input `i` of an operator says how it works, and is no weight.
bool isSetting(const std::string& op, size_t i) {
  static const std::map<std::string, std::set<size_t>> kSettings = {
      {"Resize", {1, 2, 3}}, {"Clip", {1, 2}},   {"Pad", {1, 2, 3}},
      {"Dropout", {1, 2}},   {"OneHot", {1, 2}}, {"Range", {0, 1, 2}},
  };
  auto it = kSettings.find(op);
  return it != kSettings.end() && it->second.count(i) > 0;
}

/// Whether input `i` holds running statistics.
bool isStatistic(const std::string& op, size_t i) {
  return op == "BatchNormalization" && (i == 3 || i == 4);
}

/// "attn.*" stands for all that begin with "attn.".
bool matches(const std::string& name, const std::string& pattern) {
  if (!pattern.empty() && pattern.back() == '*')
    return name.rfind(pattern.substr(0, pattern.size() - 1), 0) == 0;
  return name == pattern;
}

class Importer {
public:
  Importer(OnnxModel model, const Input& input, const ImportOptions& options)
      : model_(std::move(model)), options_(options),
        file_(input.path == "-"
                  ? std::string("model.onnx")
                  : input.path.substr(input.path.find_last_of('/') + 1)),
        module_(model_.name.empty() ? "Model" : "Onnx_" + model_.name),
        graph_(module_.graph()) {}

  Model run() {
    refuseMissing();
    forgetUnread();
    addInputs();
    addInitializers();
    listNodes();
    for (size_t i = 0; i < model_.nodes.size(); ++i)
      addNode(model_.nodes[i], i);
    addOutputs();
    removeDeadNodes(*graph_);
    graph_->lint();
    auto type = module_.module().type();
    auto* function = type->compilation_unit()->create_function(
        c10::QualifiedName(*type->name(), "forward"), graph_);
    type->addMethod(function);
    Model model;
    model.module = module_.module();
    Method method;
    method.name = "forward";
    method.graph = inlinedCopy(model.module, "forward", options_.invertible);
    model.methods.push_back(std::move(method));
    return model;
  }

private:
  // ------------------------------------------------------------ what is there

  /// All operators without a row, and where they stand.
  void refuseMissing() const {
    std::map<std::string, std::vector<std::string>> missing;
    for (const auto& node : model_.nodes) {
      if (node.domain.empty() && findOnnxOperator(node.op, node.version))
        continue;
      std::string name = node.domain.empty()
                             ? node.op
                             : fmt::format("{}::{}", node.domain, node.op);
      if (node.version > 0)
        name += fmt::format(" (version {})", node.version);
      missing[name].push_back(
          !node.name.empty() ? node.name
                             : (node.outputs.empty() ? "?" : node.outputs[0]));
    }
    if (missing.empty())
      return;
    std::string text;
    constexpr size_t kNamed = 5;
    for (auto& [name, nodes] : missing) {
      size_t count = nodes.size();
      nodes.resize(std::min(count, kNamed));
      text += fmt::format("{}{} at '{}'", text.empty() ? "" : "; ", name,
                          fmt::join(nodes, "', '"));
      if (count > kNamed)
        text += fmt::format(" and {} more", count - kNamed);
    }
    throw Error(ExitCode::BadInput,
                fmt::format("operators that are not covered: {}", text));
  }

  /// Results that nobody reads lose their names: they need not be made.
  void forgetUnread() {
    std::set<std::string> read(model_.outputs.begin(), model_.outputs.end());
    for (const auto& node : model_.nodes)
      read.insert(node.inputs.begin(), node.inputs.end());
    for (auto& node : model_.nodes)
      for (auto& output : node.outputs)
        if (read.count(output) == 0)
          output.clear();
  }

  Operand& define(const std::string& name, Operand operand) {
    auto [it, fresh] = operands_.emplace(name, std::move(operand));
    if (!fresh)
      throw Error(ExitCode::BadInput,
                  fmt::format("two values are called '{}'", name));
    return it->second;
  }

  OnnxType typeOf(const std::string& name) const {
    auto it = model_.types.find(name);
    return it == model_.types.end() ? OnnxType() : it->second;
  }

  void addInputs() {
    std::set<std::string> taken{"self"};
    for (const auto& name : model_.inputs) {
      std::string own = valueNameOf(name);
      while (!taken.insert(own).second)
        own += "_";
      Operand operand;
      operand.type = typeOf(name);
      if (operand.type.dtype == at::ScalarType::Undefined)
        throw Error(
            ExitCode::BadInput,
            fmt::format("the input '{}' is of a type that is not read", name));
      operand.value = graph_->addInput(own);
      operand.value->setType(c10::TensorType::get());
      define(name, std::move(operand));
    }
  }

  // ---------------------------------------------------------- initializers

  struct Uses {
    bool weight = false, statistic = false, setting = false;
  };

  std::map<std::string, Uses> usesOfInitializers() const {
    std::map<std::string, Uses> all;
    for (const auto& node : model_.nodes)
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        Uses& uses = all[node.inputs[i]];
        if (isStatistic(node.op, i))
          uses.statistic = true;
        else if (isSetting(node.op, i))
          uses.setting = true;
        else
          uses.weight = true;
      }
    for (const auto& output : model_.outputs)
      all[output].weight = true;
    return all;
  }

  bool isNamedBuffer(const std::string& name) {
    bool any = false;
    for (const auto& pattern : options_.buffers)
      if (matches(name, pattern)) {
        any = true;
        found_.insert(pattern);
      }
    return any;
  }

  void addInitializers() {
    auto uses = usesOfInitializers();
    for (auto& initializer : model_.initializers) {
      const std::string& name = initializer.name;
      at::Tensor value = std::move(initializer.value);
      Operand operand;
      operand.type = {value.scalar_type(), value.sizes().vec()};
      const Uses use = uses[name];
      bool named = isNamedBuffer(name);
      bool floats = value.is_floating_point() || value.is_complex();
      if (!floats || (use.setting && !use.weight && !use.statistic)) {
        // Known now; a buffer where a tensor of it is read.
        operand.constant = value;
        operand.attribute = name;
        module_.offer(name, value);
      } else {
        bool parameter = !named && !(use.statistic && !use.weight) &&
                         initializer.role != OnnxRole::Buffer;
        operand.attribute = name;
        module_.add(name, value, parameter);
      }
      setNumbers(operand);
      define(name, std::move(operand));
    }
    for (const auto& pattern : options_.buffers)
      if (found_.count(pattern) == 0)
        throw Error(
            ExitCode::BadInput,
            fmt::format("--buffer={}: there is no such initializer", pattern));
  }

  /// Small integer constants are known as numbers, numbers as constants.
  static void setNumbers(Operand& operand) {
    const at::Tensor& t = operand.constant;
    if (t.defined() && !operand.numbers && t.dim() <= 1 &&
        t.numel() <= kMostNumbers &&
        at::isIntegralType(t.scalar_type(), /*includeBool=*/true)) {
      operand.numbers.emplace();
      at::Tensor longs = t.to(at::kLong).reshape(-1);
      for (int64_t i = 0; i < longs.numel(); ++i)
        operand.numbers->emplace_back(longs[i].item().toLong());
    }
    if (!t.defined() && operand.numbers && operand.value == nullptr) {
      std::vector<int64_t> known;
      for (const auto& number : *operand.numbers)
        if (number.known)
          known.push_back(*number.known);
      if (known.size() != operand.numbers->size())
        return;
      operand.constant = at::tensor(known, at::kLong).to(operand.type.dtype);
      if (operand.type.shape && operand.type.shape->empty())
        operand.constant = operand.constant.reshape({});
    }
  }

  // ------------------------------------------------------------------- nodes

  /// A text with a line for each node, for source ranges.
  void listNodes() {
    std::string text;
    for (const auto& node : model_.nodes) {
      begins_.push_back(text.size());
      text += node.text + "\n";
    }
    begins_.push_back(text.size());
    listing_ = std::make_shared<Source>(text, file_, 1);
  }

  void addNode(const OnnxNode& node, size_t index) {
    const auto* row = findOnnxOperator(node.op, node.version);
    TORCH_INTERNAL_ASSERT(row != nullptr);
    std::vector<Operand*> inputs;
    bool constant = true;
    for (const auto& name : node.inputs) {
      if (name.empty()) {
        inputs.push_back(nullptr);
        continue;
      }
      auto it = operands_.find(name);
      if (it == operands_.end())
        throw Error(ExitCode::BadInput,
                    fmt::format("{} reads '{}', which nothing makes before it",
                                node.op, name));
      inputs.push_back(&it->second);
      constant &= it->second.constant.defined();
    }
    SourceRange range(listing_, begins_[index], begins_[index + 1] - 1);
    WithInsertPoint here(graph_->return_node());
    Node* before = graph_->return_node()->prev();
    auto results =
        constant && row->pure ? fold(node, *row, inputs) : std::nullopt;
    if (!results)
      results = lower(*graph_, node, *row, inputs, &module_);
    for (Node* made = before->next(); made != graph_->return_node();
         made = made->next())
      made->setSourceRange(range);
    for (size_t i = 0; i < node.outputs.size(); ++i)
      if (!node.outputs[i].empty())
        finish(node, i, std::move(results->at(i)));
  }

  void finish(const OnnxNode& node, size_t i, Operand result) {
    const std::string& name = node.outputs[i];
    OnnxType inferred = typeOf(name);
    if (inferred.dtype != at::ScalarType::Undefined)
      result.type.dtype = inferred.dtype;
    if (inferred.shape)
      result.type.shape = inferred.shape;
    if (result.constant.defined())
      result.type = {result.constant.scalar_type(),
                     result.constant.sizes().vec()};
    setNumbers(result);
    if (result.value == nullptr && !result.constant.defined() &&
        !result.numbers && result.attribute.empty())
      throw Error(ExitCode::BadInput,
                  fmt::format("{} (node '{}') gives its output {} ('{}'), "
                              "which is not covered",
                              node.op, node.name, i, name));
    if (result.value != nullptr && !result.value->hasDebugName() &&
        result.value->node()->kind() != prim::GetAttr &&
        result.value->node()->kind() != prim::Constant)
      result.value->setDebugName(valueNameOf(name));
    define(name, std::move(result));
  }

  std::vector<Operand> lower(Graph& graph, const OnnxNode& node,
                             const OnnxOperator& row,
                             const std::vector<Operand*>& inputs,
                             ModuleAttributes* module) const {
    Lowering b(graph, node, inputs, module);
    b.aten = row.aten;
    for (size_t i = 0; i < node.outputs.size(); ++i)
      b.outputs[i].type = typeOf(node.outputs[i]);
    if (!lowerNumbers(b))
      row.lower(b);
    return std::move(b.outputs);
  }

  /// The results of a node on constants; nothing where they would be large, or
  /// cannot be computed here.
  std::optional<std::vector<Operand>>
  fold(const OnnxNode& node, const OnnxOperator& row,
       const std::vector<Operand*>& inputs) const {
    int64_t elements = 0;
    std::vector<Operand> copies;
    copies.reserve(inputs.size());
    std::vector<Operand*> pointers;
    for (const Operand* input : inputs) {
      if (input == nullptr) {
        pointers.push_back(nullptr);
        continue;
      }
      elements += input->constant.numel();
      copies.push_back(*input);
      copies.back().value = nullptr;
      copies.back().attribute.clear();
      pointers.push_back(&copies.back());
    }
    if (elements > kMostFolded)
      return std::nullopt;
    Graph graph;
    WithInsertPoint here(graph.return_node());
    auto results = lower(graph, node, row, pointers, nullptr);
    std::vector<size_t> computed;
    for (size_t i = 0; i < results.size(); ++i)
      if (results[i].value != nullptr && !results[i].constant.defined()) {
        const auto& shape = results[i].type.shape;
        int64_t size = 1;
        for (int64_t n : shape ? *shape : std::vector<int64_t>{kMostFolded + 1})
          size = std::min(size, kMostFolded + 1) * std::max<int64_t>(n, 1);
        if (size > kMostFolded)
          return std::nullopt;
        graph.registerOutput(results[i].value);
        computed.push_back(i);
      }
    if (computed.empty())
      return results;
    std::vector<c10::IValue> values;
    try {
      values = runGraph(graph, {});
    } catch (const std::exception&) {
      return std::nullopt; // the run will say
    }
    for (size_t k = 0; k < computed.size(); ++k) {
      Operand& result = results[computed[k]];
      result.value = nullptr;
      result.constant = values.at(k).toTensor().contiguous();
    }
    return results;
  }

  // ----------------------------------------------------------------- outputs

  void addOutputs() {
    WithInsertPoint here(graph_->return_node());
    OnnxNode ends;
    ends.op = "the graph";
    std::vector<Operand*> operands;
    for (const auto& name : model_.outputs) {
      auto it = operands_.find(name);
      if (it == operands_.end())
        throw Error(ExitCode::BadInput,
                    fmt::format("nothing makes the output '{}'", name));
      operands.push_back(&it->second);
      ends.inputs.push_back(name);
    }
    Lowering b(*graph_, ends, operands, &module_);
    std::vector<Value*> values;
    for (size_t i = 0; i < operands.size(); ++i)
      values.push_back(b.in(i));
    if (values.empty())
      throw Error(ExitCode::BadInput, "the graph has no output");
    graph_->registerOutput(
        values.size() == 1
            ? values[0]
            : graph_->insertNode(graph_->createTuple(values))->output());
  }

  OnnxModel model_;
  const ImportOptions& options_;
  std::string file_;
  OnnxModule module_;
  std::shared_ptr<Graph> graph_;
  std::unordered_map<std::string, Operand> operands_;
  std::set<std::string> found_; ///< patterns of --buffer
  std::shared_ptr<Source> listing_;
  std::vector<size_t> begins_;
};

} // namespace

void importOnnx(Input& input, const ImportOptions& options) {
  auto covers = [](const std::string& op, int version) {
    return findOnnxOperator(op, version) != nullptr;
  };
  for (const auto& method : options.methods)
    if (method != "forward")
      throw Error(ExitCode::BadInput,
                  fmt::format("{}: no method '{}' (it has: forward)",
                              input.path, method));
  OnnxModel model = readOnnx(input.path, input.bytes,
                             input.kind == InputKind::OnnxText, covers);
  try {
    input.models.push_back(Importer(std::move(model), input, options).run());
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("{}: {}",
                            input.path == "-" ? "standard input" : input.path,
                            error.what()));
  }
}

std::string onnxOperatorList() {
  std::string text;
  for (const auto& row : onnxOperators())
    text += fmt::format("{} {} {}\n", row.name, row.first, row.last);
  return text;
}

} // namespace inv::opt
