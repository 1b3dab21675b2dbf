// An ONNX model as the importer works on it: checked, inlined, with inferred
// types, and free of protobuf, so that few files pay for its headers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace inv::opt {

/// A dimension whose size the file leaves open.
inline constexpr int64_t kDynamic = -1;

/// What shape inference knows of a value.
struct OnnxType {
  at::ScalarType dtype = at::ScalarType::Undefined;
  /// Sizes, kDynamic where open; nothing where even the rank is.
  std::optional<std::vector<int64_t>> shape;
};

struct OnnxAttribute {
  enum class Kind { Int, Float, String, Ints, Floats, Strings, Tensor, Other };
  Kind kind = Kind::Other;
  int64_t i = 0;
  double f = 0;
  std::string s;
  std::vector<int64_t> ints;
  std::vector<double> floats;
  std::vector<std::string> strings;
  at::Tensor t;
};

struct OnnxNode {
  std::string op, domain, name;
  int version = 0; ///< of the operator's definition that the model's opset has
  std::vector<std::string> inputs, outputs; ///< "" where one is left out
  std::map<std::string, OnnxAttribute> attributes;
  std::string text; ///< on one line, in ONNX's own syntax
};

/// What the exporter noted about an initializer.
enum class OnnxRole { Unknown, Parameter, Buffer };

struct OnnxInitializer {
  std::string name;
  at::Tensor value;
  OnnxRole role = OnnxRole::Unknown;
};

struct OnnxModel {
  std::string name; ///< of the graph
  std::vector<std::string> inputs, outputs;
  std::vector<OnnxInitializer> initializers;
  std::vector<OnnxNode> nodes; ///< in an order in which they can run
  std::unordered_map<std::string, OnnxType> types;
  std::vector<std::string> warnings;
};

/// A number in a file is often a float32 of what somebody wrote in decimals:
/// 1e-5, not 9.99999974e-06. PyTorch computed with the decimal, so that is
/// given back: the shortest that rounds to the float32.
double decimal(float number);

} // namespace inv::opt
