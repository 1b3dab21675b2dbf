// What a lowering (one function per ONNX operator, ops/*.cpp) is handed: the
// node with its operands, and the means to write ATen operators for it.
//
// Sizes. An exporter writes `x.view(x.size(0), -1)` as a small graph of integer
// tensors (Shape, Gather, Concat, Reshape). To the analysis these must be what
// they were: ints of aten::size. So an operand may be known as *numbers*: one
// for each element, known now or an int value of the graph; Numbers.cpp
// computes on these, and a tensor is made of them only where one is read.
#pragma once

#include "passes/import/onnx/OnnxModel.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/ir/named_value.h>

namespace inv::opt {

/// An int of the graph: known now, or the result of a node.
struct Number {
  Number(int64_t known) : known(known) {}       // NOLINT: reads as a number
  Number(int known) : Number(int64_t{known}) {} // NOLINT: 0 is no pointer
  explicit Number(torch::jit::Value* value, bool atLeastZero = false)
      : value(value), atLeastZero(atLeastZero) {}
  std::optional<int64_t> known;
  torch::jit::Value* value = nullptr;
  bool atLeastZero = false; ///< a size, or made from sizes
};
using Numbers = std::vector<Number>;

/// What stands for an ONNX value. At least one of the three is there.
struct Operand {
  OnnxType type;
  torch::jit::Value* value = nullptr;
  at::Tensor constant; ///< defined: known now
  std::optional<Numbers> numbers;
  std::string attribute; ///< the initializer that it is, or empty
};

/// What lowerings need of the module that is being made.
class ModuleAttributes {
public:
  virtual ~ModuleAttributes() = default;
  /// Reads the tensor of an initializer.
  virtual torch::jit::Value* read(const std::string& initializer) = 0;
  /// Reads whether the module is in training.
  virtual torch::jit::Value* training() = 0;
};

class Lowering {
public:
  using Value = torch::jit::Value;
  using Arguments = std::vector<torch::jit::NamedValue>;

  Lowering(torch::jit::Graph& graph, const OnnxNode& node,
           std::vector<Operand*> inputs, ModuleAttributes* module)
      : outputs(node.outputs.size()), graph_(graph), node_(node),
        inputs_(std::move(inputs)), module_(module) {}

  // ---- the node
  const OnnxNode& node() const { return node_; }
  /// The operator of ATen that the table names, where it does.
  const char* aten = "";
  /// Ends the import: this form of the operator cannot be lowered. `why`
  /// completes the sentence "Resize ...".
  [[noreturn]] void refuse(const std::string& why) const;
  bool hasAttribute(const char* name) const;
  int64_t intAttribute(const char* name, int64_t otherwise) const;
  double floatAttribute(const char* name, double otherwise) const;
  std::string stringAttribute(const char* name,
                              const std::string& otherwise) const;
  std::vector<int64_t> intsAttribute(const char* name) const;
  const OnnxAttribute* attribute(const char* name) const;
  /// Whether somebody reads output `i`.
  bool wants(size_t i) const;

  // ---- its operands
  size_t inputs() const { return inputs_.size(); }
  bool has(size_t i) const { return i < inputs_.size() && inputs_[i]; }
  Operand& operand(size_t i);
  /// Operand `i` as a tensor, whatever it is known as.
  Value* in(size_t i);
  at::ScalarType dtype(size_t i);
  bool isFloat(size_t i);
  /// Sizes of operand `i`; an error where not even the rank is known.
  const std::vector<int64_t>& shape(size_t i);
  int64_t rank(size_t i);
  std::optional<int64_t> knownRank(size_t i);
  /// `axis` counted from the front.
  int64_t axis(int64_t axis, int64_t rank) const;
  std::vector<int64_t> axes(std::vector<int64_t> axes, int64_t rank) const;
  /// The value of operand `i` where it is known now.
  const at::Tensor* constant(size_t i);
  std::optional<double> constantScalar(size_t i);
  /// Elements of an integer operand with at most one dimension.
  Numbers numbers(size_t i);
  /// The same where they must be known now; `what` names it in the error.
  std::vector<int64_t> constants(size_t i, const char* what);

  // ---- writing
  torch::jit::Graph& graph() { return graph_; }
  ModuleAttributes& module();
  /// Inserts aten::`op`. An operator with several results gives a tuple.
  Value* call(const char* op, const Arguments& arguments,
              const Arguments& keywords = {});
  /// The elements of a tuple or a list of known length.
  std::vector<Value*> unpack(Value* value, size_t count);
  Value* list(const std::vector<Value*>& tensors);
  Value* list(const Numbers& numbers);
  Value* value(const Number& number);
  /// The size of dimension `dim` of operand `i`.
  Number size(size_t i, int64_t dim);
  /// The same of a tensor of the graph, which nothing is known of.
  Number sizeOf(Value* tensor, int64_t dim);
  Value* cast(Value* tensor, at::ScalarType dtype);
  /// A tensor that is a constant.
  Value* tensor(const at::Tensor& constant);

  /// Arithmetic on ints, done now where both are known.
  Number add(const Number& a, const Number& b);
  Number sub(const Number& a, const Number& b);
  Number mul(const Number& a, const Number& b);
  Number floorDivide(const Number& a, const Number& b);
  Number max(const Number& a, const Number& b);
  Number min(const Number& a, const Number& b);
  Number product(const Numbers& numbers);

  /// Results, to be filled in by the lowering; those that nobody wants may stay
  /// empty. Types are the caller's business.
  std::vector<Operand> outputs;
  void out(Value* value, size_t i = 0) { outputs.at(i).value = value; }

private:
  Number arithmetic(const char* op, const Number& a, const Number& b,
                    int64_t (*now)(int64_t, int64_t), bool atLeastZero);

  torch::jit::Graph& graph_;
  const OnnxNode& node_;
  std::vector<Operand*> inputs_;
  ModuleAttributes* module_;
};

/// Computes a node on numbers, where it is one of sizes and all its operands
/// are known as such. False: it is lowered as any other.
bool lowerNumbers(Lowering& b);

} // namespace inv::opt
