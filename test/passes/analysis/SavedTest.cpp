// The table of what derivatives keep (Saved.def), against what autograd really
// keeps: every row, with every choice of the inputs that ask for gradients.
#include "passes/analysis/Dataflow.h"
#include "passes/analysis/TrainingRun.h"
#include "passes/support/SavedTensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/irparser.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <ostream>
#include <set>

namespace inv::opt {
namespace {

using namespace torch::jit;

enum class Form { Python, Ir, Recurrent };

struct Case {
  const char* row;
  const char* code;
  Form form;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.code; }

const Case kCases[] = {
#define CASE(row, code) {row, code, Form::Python},
#define IR_CASE(row, code) {row, code, Form::Ir},
#define RECURRENT_CASE(row, code) {row, code, Form::Recurrent},
#include "test/passes/analysis/SavedCases.def"
#undef CASE
#undef IR_CASE
#undef RECURRENT_CASE
};

/// See SavedCases.def.
std::map<std::string, at::Tensor> makeInputs() {
  at::manual_seed(3);
  auto uniform = [](const std::vector<int64_t>& sizes) {
    return at::rand(sizes, at::kDouble) * 0.8 + 0.1;
  };
  std::map<std::string, at::Tensor> inputs = {
      {"x", uniform({2, 4, 6, 6})},
      {"y", uniform({2, 4, 6, 6})},
      {"a", uniform({6, 6}) + 3 * at::eye(6, at::kDouble)},
      {"b", uniform({6, 6}) + 3 * at::eye(6, at::kDouble)},
      {"v", uniform({6})},
      {"c", uniform({4})},
      {"k", uniform({4, 4, 3, 3})},
      {"r", uniform({3, 4, 6})},
      {"h", uniform({1, 4, 5})},
      {"u", uniform({20, 6})},
      {"q", uniform({20, 5})},
      {"e", uniform({20})},
      {"i", at::arange(288).remainder(4).view({2, 4, 6, 6})},
      {"n", at::tensor({0, 2}, at::kLong)},
      {"m", at::arange(288).remainder(3).eq(0).view({2, 4, 6, 6})}};
  inputs["p"] = inputs["a"].mm(inputs["a"].t());
  return inputs;
}

std::string rowOf(const Node* n) {
  return fmt::format("{}.{}", n->kind().toUnqualString(),
                     n->schema().overload_name());
}

/// The last node of the row's operator.
Node* findNode(const Graph& graph, const std::string& row) {
  const std::string name = row.substr(0, row.find('.'));
  Node* found = nullptr;
  for (Node* n : const_cast<Graph&>(graph).nodes())
    if (n->kind().toUnqualString() == name && (name == row || rowOf(n) == row))
      found = n;
  return found;
}

/// One call, of whose floating inputs only `asking` ask for gradients.
class Call {
public:
  Call(const Case& c, const std::set<std::string>& asking) : module_("Saved") {
    inputs_ = makeInputs();
    graph_ =
        c.form == Form::Ir ? parse(c.code, asking) : compile(c.code, asking);
    std::vector<IValue> arguments{module_._ivalue()};
    for (const auto& [name, value] : inputs_)
      arguments.emplace_back(value);
    run_.emplace(*graph_, arguments, Streams::HandedOn);
    flow_.emplace(*graph_, &run_->values());
    node_ = findNode(*graph_, c.row);
  }

  /// Inputs of floating dtype that the code reads.
  std::vector<std::string> read() const {
    std::vector<std::string> names;
    size_t i = 1;
    for (const auto& [name, value] : inputs_)
      if (const Value* in = graph_->inputs().at(i++);
          value.is_floating_point() && reads(in))
        names.push_back(name);
    return names;
  }

  const Node* node() const { return node_; }
  const NodeInfo& info() const { return flow_->node(flow_->idOf(node_)); }

  /// What the table says: names of values, by their storage.
  std::set<std::string> claimed() const {
    std::set<std::string> names;
    for (ValueId v : info().saved)
      names.insert(nameOf(flow_->value(v).value));
    return names;
  }

  /// What autograd keeps for the node; what is no value is added to `own`.
  std::set<std::string> kept(int64_t& own) const {
    std::set<std::string> names;
    for (const KeptStorage& kept : run_->kept()) {
      const bool mine =
          std::count(kept.savers.begin(), kept.savers.end(), node_) != 0;
      if (mine && kept.value)
        names.insert(nameOf(kept.value));
      else if (mine)
        own += kept.bytes;
    }
    return names;
  }

  int64_t resultBytes() const {
    int64_t bytes = 0;
    for (const Value* out : node_->outputs())
      if (const IValue v = run_->values().at(out); v.isTensor())
        bytes = std::max(bytes, int64_t(v.toTensor().nbytes()));
    for (const Value* in : node_->inputs())
      if (const IValue v = run_->values().at(in); v.isTensor())
        bytes = std::max(bytes, int64_t(v.toTensor().nbytes()));
    return bytes;
  }

  /// Outputs whose question for gradients is not the one that Dataflow says.
  std::vector<std::string> wrongGradients() const {
    std::vector<std::string> wrong;
    for (Value* out : node_->outputs()) {
      const IValue v = run_->values().at(out);
      if (!out->uses().empty() && v.isTensor() &&
          v.toTensor().is_floating_point() &&
          v.toTensor().requires_grad() !=
              flow_->value(flow_->idOf(out)).asksGradient)
        wrong.push_back(out->debugName());
    }
    return wrong;
  }

private:
  std::shared_ptr<Graph> compile(const std::string& expression,
                                 const std::set<std::string>& asking) {
    std::string code = "def forward(self";
    for (const auto& [name, value] : inputs_)
      code += ", " + name;
    code += "):\n";
    for (const auto& [name, value] : inputs_)
      if (value.is_floating_point() && !asking.count(name))
        code += fmt::format("    {0} = {0}.detach()\n", name);
    module_.define(code + "    return " + expression + "\n");
    return module_.get_method("forward").graph();
  }

  std::shared_ptr<Graph> parse(std::string node,
                               const std::set<std::string>& asking) {
    std::string text = "graph(%self";
    for (const auto& [name, value] : inputs_)
      text += ", %" + name + " : Tensor";
    text += "):\n  %one : int = prim::Constant[value=1]()\n";
    for (const auto& [name, value] : inputs_) {
      const std::string read = "%" + name;
      if (!value.is_floating_point() || asking.count(name) ||
          node.find(read) == std::string::npos)
        continue;
      text += fmt::format("  {0}0 : Tensor = aten::detach({0})\n", read);
      node.replace(node.find(read), read.size(), read + "0");
    }
    auto graph = std::make_shared<Graph>();
    parseIR(text + "  %out : Tensor = " + node + "\n  return (%out)\n",
            graph.get());
    return graph;
  }

  /// Beside its own detach().
  bool reads(const Value* in) const {
    return std::any_of(in->uses().begin(), in->uses().end(),
                       [](const Use& use) {
                         return use.user->kind() != aten::detach ||
                                !use.user->output()->uses().empty();
                       });
  }

  /// The first value with the same storage.
  std::string nameOf(const Value* v) const {
    const void* storage = run_->storageOf(v);
    for (const Value* in : graph_->inputs())
      if (run_->storageOf(in) == storage)
        return in->debugName();
    for (const Node* n : const_cast<const Graph&>(*graph_).nodes())
      for (const Value* out : n->outputs())
        if (run_->storageOf(out) == storage)
          return out->debugName();
    return v->debugName();
  }

  Module module_;
  std::map<std::string, at::Tensor> inputs_;
  std::shared_ptr<Graph> graph_;
  std::optional<TrainingRun> run_;
  std::optional<Dataflow> flow_;
  Node* node_ = nullptr;
};

/// "u.1" is a weight's name, too.
std::set<std::string> without(const std::set<std::string>& weights,
                              std::set<std::string> names) {
  std::erase_if(names, [&](const std::string& name) {
    return weights.count(name.substr(0, name.find('.'))) != 0;
  });
  return names;
}

class SavedTable : public ::testing::TestWithParam<Case> {};

TEST_P(SavedTable, IsWhatAutogradKeeps) {
  const bool recurrent = GetParam().form == Form::Recurrent;
  std::vector<std::string> inputs;
  std::set<std::string> weights;
  for (const std::string& name : Call(GetParam(), {}).read())
    if (recurrent && (name == "u" || name == "q" || name == "e"))
      weights.insert(name);
    else
      inputs.push_back(name);
  ASSERT_LE(inputs.size(), 4u);
  for (size_t choice = 0; choice < size_t(1) << inputs.size(); ++choice) {
    std::set<std::string> asking = weights;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (choice >> i & 1)
        asking.insert(inputs[i]);
    const Call call(GetParam(), asking);
    ASSERT_TRUE(call.node()) << "no node of " << GetParam().row;
    SCOPED_TRACE("asking: " + fmt::format("{}", fmt::join(asking, " ")));
    EXPECT_TRUE(call.info().savedKnown);
    int64_t own = 0;
    EXPECT_EQ(without(weights, call.claimed()),
              without(weights, call.kept(own)));
    if (call.info().savedOwn > 0) {
      EXPECT_GT(own, 0);
    } else {
      EXPECT_LE(own, call.resultBytes() / 2);
    }
    EXPECT_EQ(call.wrongGradients(), std::vector<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Operators, SavedTable, ::testing::ValuesIn(kCases));

TEST(SavedTable, HasNoRowWithoutACase) {
  std::set<std::string> rows = {
#define SAVED(name, row) name,
#include "passes/analysis/Saved.def"
#undef SAVED
  };
  for (const Case& c : kCases)
    rows.erase(c.row);
  // Without a derivative; they need a module's weights.
  rows.erase("_native_multi_head_attention");
  rows.erase("_transformer_encoder_layer_fwd");
  EXPECT_EQ(rows, std::set<std::string>());
}

// The measurement itself, against life times: an operator's result is dropped,
// and what is alive after that its backward node holds.
TEST(SavedTensors, AreThoseThatStayAlive) {
  at::Tensor x = at::rand({64}).set_requires_grad(true).exp();
  at::Tensor y = at::sigmoid(x);
  auto storage = c10::weak_intrusive_ptr<c10::StorageImpl>(
      y.storage().getWeakStorageImpl());
  auto node = y.grad_fn();
  const auto saved = savedTensors(node);
  ASSERT_TRUE(saved);
  ASSERT_EQ(saved->size(), 1u);
  EXPECT_TRUE(saved->front().is_alias_of(y));
  y.reset();
  EXPECT_FALSE(storage.expired() && saved->empty());
  auto sum = (x + 1.0).grad_fn();
  EXPECT_TRUE(savedTensors(sum)->empty());
}

} // namespace
} // namespace inv::opt
