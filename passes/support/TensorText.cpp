#include "passes/support/TensorText.h"

#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace inv::opt {
namespace {

using at::ScalarType;

const std::vector<std::pair<std::string, ScalarType>>& dtypes() {
  static const std::vector<std::pair<std::string, ScalarType>> table = {
      {"f32", at::kFloat},        {"f64", at::kDouble},
      {"f16", at::kHalf},         {"bf16", at::kBFloat16},
      {"i64", at::kLong},         {"i32", at::kInt},
      {"i16", at::kShort},        {"i8", at::kChar},
      {"u8", at::kByte},          {"bool", at::kBool},
      {"c64", at::kComplexFloat}, {"c128", at::kComplexDouble}};
  return table;
}

int64_t parseInt(Cursor& cursor, const char* what) {
  std::string text = cursor.word(what);
  try {
    size_t used = 0;
    int64_t value = std::stoll(text, &used);
    if (used == text.size())
      return value;
  } catch (const std::exception&) {
  }
  cursor.fail(fmt::format("expected {}, not '{}'", what, text));
}

double parseFloat(Cursor& cursor) {
  std::string text = cursor.word("a number");
  if (text == "true" || text == "false")
    return text == "true" ? 1 : 0;
  try {
    size_t used = 0;
    double value = std::stod(text, &used);
    if (used == text.size())
      return value;
  } catch (const std::exception&) {
  }
  cursor.fail(fmt::format("expected a number, not '{}'", text));
}

/// `(a, b, name=value)` after an initialiser's name; positional arguments are
/// called "0", "1".
std::map<std::string, double> parseArguments(Cursor& cursor) {
  std::map<std::string, double> arguments;
  if (!cursor.eat("("))
    return arguments;
  for (int position = 0; !cursor.eat(")"); ++position) {
    if (position > 0)
      cursor.expect(",");
    std::string name = std::to_string(position);
    if (std::isalpha(static_cast<unsigned char>(cursor.peek()))) {
      name = cursor.word("a name");
      cursor.expect("=");
    }
    arguments[name] = parseFloat(cursor);
  }
  return arguments;
}

/// A flat or nested list, or one element; each read by `parseOne`.
template <typename T>
void parseElements(Cursor& cursor, std::vector<T>& out,
                   T (*parseOne)(Cursor&)) {
  if (!cursor.eat("[")) {
    out.push_back(parseOne(cursor));
    return;
  }
  if (cursor.eat("]"))
    return;
  do
    parseElements(cursor, out, parseOne);
  while (cursor.eat(","));
  cursor.expect("]");
}

/// Integers apart from the rest: 64 bits do not survive a double.
at::Tensor parseValues(Cursor& cursor, at::IntArrayRef sizes,
                       ScalarType dtype) {
  at::Tensor values;
  if (dtype == at::kLong) {
    std::vector<int64_t> elements;
    parseElements<int64_t>(cursor, elements,
                           [](Cursor& c) { return parseInt(c, "an integer"); });
    values = at::tensor(elements, at::kLong);
  } else {
    std::vector<double> elements;
    parseElements<double>(cursor, elements, parseFloat);
    values = at::tensor(elements, at::kDouble).to(dtype);
  }
  if (values.numel() != c10::multiply_integers(sizes))
    cursor.fail(fmt::format("{} values for {} elements", values.numel(),
                            c10::multiply_integers(sizes)));
  return values.view(sizes);
}

at::Tensor randomOf(at::IntArrayRef sizes, ScalarType dtype, uint64_t seed) {
  if (!at::isFloatingType(dtype))
    return at::zeros(sizes, at::TensorOptions().dtype(dtype));
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(sizes, generator, at::TensorOptions().dtype(at::kDouble))
      .to(dtype);
}

at::Tensor parseNamed(Cursor& cursor, const std::string& name,
                      at::IntArrayRef sizes, ScalarType dtype, uint64_t seed) {
  auto arguments = parseArguments(cursor);
  auto get = [&](const char* key, double fallback) {
    auto it = arguments.find(key);
    return it == arguments.end() ? fallback : it->second;
  };
  auto options = at::TensorOptions().dtype(dtype);
  seed = arguments.count("seed") ? static_cast<uint64_t>(arguments.at("seed"))
                                 : seed;
  if (name == "zeros")
    return at::zeros(sizes, options);
  if (name == "ones")
    return at::ones(sizes, options);
  if (name == "full")
    return at::full(sizes, get("0", 0), options);
  if (name == "elided")
    return randomOf(sizes, dtype, seed);
  if (name == "randn")
    return (randomOf(sizes, dtype, seed) * get("scale", 1)).to(dtype);
  if (name == "randint") {
    auto generator = at::detail::createCPUGenerator(seed);
    return at::randint(static_cast<int64_t>(get("0", 0)),
                       static_cast<int64_t>(get("1", 2)), sizes, generator,
                       options);
  }
  if (name == "eye" || name == "rank") {
    if (sizes.size() != 2)
      cursor.fail("'" + name + "' needs two sizes");
    if (name == "eye")
      return at::eye(sizes[0], sizes[1], options);
    auto k = static_cast<int64_t>(get("0", 1));
    auto left = randomOf({sizes[0], k}, at::kDouble, seed);
    auto right = randomOf({k, sizes[1]}, at::kDouble, seed + 1);
    return at::mm(left, right).div(std::sqrt(std::max<double>(k, 1))).to(dtype);
  }
  cursor.fail("unknown initialiser '" + name + "'");
}

std::string elementText(double value) {
  return std::isfinite(value) ? fmt::format("{}", value)
                              : (std::isnan(value) ? "nan"
                                 : value > 0       ? "inf"
                                                   : "-inf");
}

} // namespace

uint64_t seedOf(std::string_view name) {
  uint64_t hash = 14695981039346656037ULL; // FNV-1a
  for (unsigned char c : name)
    hash = (hash ^ c) * 1099511628211ULL;
  return hash & 0x7fffffff;
}

at::Tensor parseTensor(Cursor& cursor, uint64_t seed,
                       const TensorLookup& lookup) {
  std::string name = cursor.word("a dtype such as f32");
  ScalarType dtype = ScalarType::Undefined;
  for (const auto& [text, type] : dtypes())
    if (text == name)
      dtype = type;
  if (dtype == ScalarType::Undefined)
    cursor.fail("unknown dtype '" + name + "'");
  cursor.expect("[");
  std::vector<int64_t> sizes;
  if (!cursor.eat("]")) {
    do
      sizes.push_back(parseInt(cursor, "a size"));
    while (cursor.eat(","));
    cursor.expect("]");
  }
  for (int64_t size : sizes)
    if (size < 0)
      cursor.fail("a negative size");
  if (!cursor.eat("="))
    return randomOf(sizes, dtype, seed);
  char next = cursor.peek();
  if (next == '[' || next == '-' || std::isdigit(next))
    return parseValues(cursor, sizes, dtype);
  std::string init = cursor.word("an initialiser");
  if (init == "same") {
    cursor.expect("(");
    std::string path = cursor.word("a path");
    cursor.expect(")");
    at::Tensor other = lookup ? lookup(path) : at::Tensor();
    if (!other.defined())
      cursor.fail("no tensor '" + path + "' was declared before");
    if (other.sizes() != at::IntArrayRef(sizes) || other.scalar_type() != dtype)
      cursor.fail("'" + path + "' has another dtype or other sizes");
    return other;
  }
  if (sizes.empty() && (init == "inf" || init == "nan"))
    return at::full({}, std::stod(init), at::TensorOptions().dtype(dtype));
  return parseNamed(cursor, init, sizes, dtype, seed);
}

std::string tensorTypeText(const at::Tensor& tensor) {
  std::string name = c10::toString(tensor.scalar_type());
  for (const auto& [text, type] : dtypes())
    if (type == tensor.scalar_type())
      name = text;
  return fmt::format("{}[{}]", name, fmt::join(tensor.sizes(), ", "));
}

std::string tensorText(const at::Tensor& tensor) {
  std::string text = tensorTypeText(tensor) + " = ";
  if (tensor.numel() > kMaxPrintedElements || tensor.is_complex())
    return text + "elided";
  at::Tensor flat = tensor.detach().cpu().contiguous().view(-1);
  std::vector<std::string> elements;
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if (at::isIntegralType(flat.scalar_type(), /*includeBool=*/true))
      elements.push_back(std::to_string(flat[i].item<int64_t>()));
    else if (flat.scalar_type() == at::kDouble)
      elements.push_back(elementText(flat[i].item<double>()));
    else
      elements.push_back(std::isfinite(flat[i].item<float>())
                             ? fmt::format("{}", flat[i].item<float>())
                             : elementText(flat[i].item<float>()));
  }
  return text + fmt::format("[{}]", fmt::join(elements, ", "));
}

} // namespace inv::opt
