#include "passes/import/onnx/Lowering.h"

#include "passes/support/Error.h"

#include <algorithm>
#include <limits>
#include <string>

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

namespace inv::opt {

using namespace torch::jit;

namespace {

constexpr int64_t kMostElements = 4096; ///< of a tensor known as numbers

/// What the message calls a node.
std::string nameOf(const OnnxNode& node) {
  std::string output = node.outputs.empty() ? "" : node.outputs.front();
  return node.name.empty()
             ? fmt::format("{} (which makes '{}')", node.op, output)
             : fmt::format("{} (node '{}')", node.op, node.name);
}

} // namespace

double decimal(float number) { return std::stod(fmt::format("{}", number)); }

void Lowering::refuse(const std::string& why) const {
  throw Error(ExitCode::BadInput, fmt::format("{} {}", nameOf(node_), why));
}

const OnnxAttribute* Lowering::attribute(const char* name) const {
  auto it = node_.attributes.find(name);
  return it == node_.attributes.end() ? nullptr : &it->second;
}
bool Lowering::hasAttribute(const char* name) const {
  return attribute(name) != nullptr;
}
int64_t Lowering::intAttribute(const char* name, int64_t otherwise) const {
  const auto* a = attribute(name);
  return a ? a->i : otherwise;
}
double Lowering::floatAttribute(const char* name, double otherwise) const {
  const auto* a = attribute(name);
  return a ? a->f : otherwise;
}
std::string Lowering::stringAttribute(const char* name,
                                      const std::string& otherwise) const {
  const auto* a = attribute(name);
  return a ? a->s : otherwise;
}
std::vector<int64_t> Lowering::intsAttribute(const char* name) const {
  const auto* a = attribute(name);
  return a ? a->ints : std::vector<int64_t>();
}

bool Lowering::wants(size_t i) const {
  return i < node_.outputs.size() && !node_.outputs[i].empty();
}

Operand& Lowering::operand(size_t i) {
  if (!has(i))
    refuse(fmt::format("has no input {}", i));
  return *inputs_[i];
}

Value* Lowering::in(size_t i) {
  Operand& operand = this->operand(i);
  if (operand.value != nullptr)
    return operand.value;
  if (!operand.attribute.empty() && module_ != nullptr) {
    operand.value = module_->read(operand.attribute);
  } else if (operand.constant.defined()) {
    operand.value = graph_.insertConstant(operand.constant);
  } else {
    const Numbers& numbers = operand.numbers.value();
    bool scalar = operand.type.shape && operand.type.shape->empty();
    Value* data = scalar ? value(numbers.at(0)) : list(numbers);
    operand.value =
        call("tensor", {data}, {NamedValue("dtype", int64_t(dtype(i)))});
  }
  return operand.value;
}

at::ScalarType Lowering::dtype(size_t i) {
  auto dtype = operand(i).type.dtype;
  if (dtype == at::ScalarType::Undefined)
    refuse(
        fmt::format("has an input of unknown type ({})", node_.inputs.at(i)));
  return dtype;
}

bool Lowering::isFloat(size_t i) { return at::isFloatingType(dtype(i)); }

const std::vector<int64_t>& Lowering::shape(size_t i) {
  auto& shape = operand(i).type.shape;
  if (!shape)
    refuse(
        fmt::format("has an input of unknown rank ('{}')", node_.inputs.at(i)));
  return *shape;
}

int64_t Lowering::rank(size_t i) { return int64_t(shape(i).size()); }

std::optional<int64_t> Lowering::knownRank(size_t i) {
  auto& shape = operand(i).type.shape;
  return shape ? std::optional(int64_t(shape->size())) : std::nullopt;
}

int64_t Lowering::axis(int64_t axis, int64_t rank) const {
  int64_t least = -std::max<int64_t>(rank, 1), most = -least - 1;
  if (axis < least || axis > most)
    refuse(fmt::format("has axis {} on {} dimensions", axis, rank));
  return axis < 0 ? axis + rank : axis;
}

std::vector<int64_t> Lowering::axes(std::vector<int64_t> axes,
                                    int64_t rank) const {
  for (auto& a : axes)
    a = axis(a, rank);
  return axes;
}

const at::Tensor* Lowering::constant(size_t i) {
  Operand& operand = this->operand(i);
  return operand.constant.defined() ? &operand.constant : nullptr;
}

std::optional<double> Lowering::constantScalar(size_t i) {
  const at::Tensor* t = constant(i);
  if (t == nullptr || t->numel() != 1 || t->is_complex())
    return std::nullopt;
  return t->item().toDouble();
}

Numbers Lowering::numbers(size_t i) {
  Operand& operand = this->operand(i);
  if (operand.numbers)
    return *operand.numbers;
  if (!at::isIntegralType(dtype(i), /*includeBool=*/true))
    refuse(fmt::format("needs integers ('{}')", node_.inputs.at(i)));
  const auto& shape = this->shape(i);
  if (shape.size() > 1 ||
      (shape.size() == 1 && (shape[0] < 0 || shape[0] > kMostElements)))
    refuse(
        fmt::format("needs a list of known length ('{}')", node_.inputs.at(i)));
  Numbers numbers;
  for (int64_t k = 0, n = shape.empty() ? 1 : shape[0]; k < n; ++k) {
    Value* element = shape.empty() ? in(i) : call("select", {in(i), 0, k});
    numbers.emplace_back(call("Int", {element}));
  }
  operand.numbers = numbers;
  return numbers;
}

std::vector<int64_t> Lowering::constants(size_t i, const char* what) {
  std::vector<int64_t> known;
  if (operand(i).numbers || operand(i).constant.defined()) {
    bool all = true;
    for (const auto& number : numbers(i)) {
      all &= number.known.has_value();
      known.push_back(number.known.value_or(0));
    }
    if (all)
      return known;
  }
  refuse(fmt::format("has {} that only the run can tell", what));
}

ModuleAttributes& Lowering::module() {
  if (module_ == nullptr)
    refuse("needs the module"); // folded by mistake
  return *module_;
}

Value* Lowering::call(const char* op, const Arguments& arguments,
                      const Arguments& keywords) {
  return graph_.insert(Symbol::aten(op), arguments, keywords);
}

std::vector<Value*> Lowering::unpack(Value* value, size_t count) {
  bool tuple = value->type()->kind() == c10::TypeKind::TupleType;
  Node* node = graph_.insertNode(tuple ? graph_.createTupleUnpack(value)
                                       : graph_.createListUnpack(value, count));
  return {node->outputs().begin(), node->outputs().end()};
}

Value* Lowering::list(const std::vector<Value*>& tensors) {
  return graph_.insertNode(graph_.createList(c10::TensorType::get(), tensors))
      ->output();
}

Value* Lowering::list(const Numbers& numbers) {
  std::vector<Value*> values;
  values.reserve(numbers.size());
  for (const auto& number : numbers)
    values.push_back(value(number));
  return graph_.insertNode(graph_.createList(c10::IntType::get(), values))
      ->output();
}

Value* Lowering::value(const Number& number) {
  return number.known ? graph_.insertConstant(*number.known) : number.value;
}

Number Lowering::size(size_t i, int64_t dim) {
  int64_t known = shape(i).at(size_t(dim));
  return known >= 0 ? Number(known) : sizeOf(in(i), dim);
}

Number Lowering::sizeOf(Value* tensor, int64_t dim) {
  return Number(call("size", {tensor, dim}), /*atLeastZero=*/true);
}

Value* Lowering::cast(Value* tensor, at::ScalarType dtype) {
  return call("to", {tensor, int64_t(dtype), false, false, c10::IValue()});
}

Value* Lowering::tensor(const at::Tensor& constant) {
  return graph_.insertConstant(constant);
}

Number Lowering::arithmetic(const char* op, const Number& a, const Number& b,
                            int64_t (*now)(int64_t, int64_t),
                            bool atLeastZero) {
  if (a.known && b.known)
    return now(*a.known, *b.known);
  bool sizes = (a.known ? *a.known >= 0 : a.atLeastZero) &&
               (b.known ? *b.known >= 0 : b.atLeastZero);
  return Number(graph_.insert(Symbol::fromQualString(op), {value(a), value(b)}),
                sizes && atLeastZero);
}

namespace {

/// Wraps around as the graph's own arithmetic does, and is defined.
template <typename F> int64_t wrapping(int64_t a, int64_t b, F f) {
  return static_cast<int64_t>(
      f(static_cast<uint64_t>(a), static_cast<uint64_t>(b)));
}

} // namespace

Number Lowering::add(const Number& a, const Number& b) {
  if (b.known == 0)
    return a;
  if (a.known == 0)
    return b;
  return arithmetic(
      "aten::add", a, b,
      [](int64_t x, int64_t y) { return wrapping(x, y, std::plus<>()); }, true);
}
Number Lowering::sub(const Number& a, const Number& b) {
  if (b.known == 0)
    return a;
  return arithmetic(
      "aten::sub", a, b,
      [](int64_t x, int64_t y) { return wrapping(x, y, std::minus<>()); },
      false);
}
Number Lowering::mul(const Number& a, const Number& b) {
  if (b.known == 1)
    return a;
  if (a.known == 1)
    return b;
  return arithmetic(
      "aten::mul", a, b,
      [](int64_t x, int64_t y) { return wrapping(x, y, std::multiplies<>()); },
      true);
}
Number Lowering::floorDivide(const Number& a, const Number& b) {
  if (b.known == 1)
    return a;
  if (b.known == 0 ||
      (b.known == -1 && a.known == std::numeric_limits<int64_t>::min()))
    refuse("divides by zero, or overflows");
  return arithmetic(
      "aten::floordiv", a, b,
      [](int64_t x, int64_t y) {
        int64_t q = x / y;
        return x % y != 0 && (x < 0) != (y < 0) ? q - 1 : q;
      },
      true);
}
Number Lowering::max(const Number& a, const Number& b) {
  return arithmetic(
      "prim::max", a, b, [](int64_t x, int64_t y) { return std::max(x, y); },
      true);
}
Number Lowering::min(const Number& a, const Number& b) {
  return arithmetic(
      "prim::min", a, b, [](int64_t x, int64_t y) { return std::min(x, y); },
      true);
}
Number Lowering::product(const Numbers& numbers) {
  Number all = 1;
  for (const auto& number : numbers)
    all = mul(all, number);
  return all;
}

} // namespace inv::opt
