#include "passes/support/ValueText.h"

#include "passes/support/StringUtil.h"
#include "passes/support/TensorText.h"

#include <cmath>

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/frontend/function_schema_parser.h>

namespace inv::opt {
namespace {

/// A type without class names: what an operator's schema may say.
c10::TypePtr parsePlainType(Cursor& cursor, const std::string& text) {
  if (text == "NoneType")
    return c10::NoneType::get();
  try {
    auto schema = torch::jit::parseSchema("inv::type(" + text + " x) -> ()");
    return schema.arguments().at(0).real_type();
  } catch (const std::exception&) {
    cursor.fail("cannot read the type '" + text + "'");
  }
}

/// The parts of "A, B, C" outside brackets.
std::vector<std::string> splitTypes(const std::string& text) {
  std::vector<std::string> parts;
  Cursor inner(text, "");
  while (!inner.atEnd()) {
    parts.push_back(inner.until(","));
    inner.eat(",");
  }
  return parts;
}

bool endsWith(const std::string& text, std::string_view end) {
  return text.size() > end.size() &&
         text.compare(text.size() - end.size(), end.size(), end) == 0;
}

c10::TypePtr parseCompound(Cursor& cursor, const std::string& text,
                           const TypeLookup& lookup) {
  auto inside = [&](size_t prefix) {
    return text.substr(prefix, text.size() - prefix - 1);
  };
  if (endsWith(text, "[]"))
    return c10::ListType::create(
        parseType(cursor, text.substr(0, text.size() - 2), lookup));
  if (endsWith(text, "?"))
    return c10::OptionalType::create(
        parseType(cursor, text.substr(0, text.size() - 1), lookup));
  if (text.front() == '(' && text.back() == ')') {
    std::vector<c10::TypePtr> elements;
    for (const auto& part : splitTypes(inside(1)))
      elements.push_back(parseType(cursor, part, lookup));
    return c10::TupleType::create(elements);
  }
  if (text.rfind("Dict(", 0) == 0) {
    auto parts = splitTypes(inside(5));
    if (parts.size() == 2)
      return c10::DictType::create(parseType(cursor, parts[0], lookup),
                                   parseType(cursor, parts[1], lookup));
  }
  cursor.fail("cannot read the type '" + text + "'");
}

std::string parseNumber(Cursor& cursor) { return cursor.word("a number"); }

template <typename T>
T convert(Cursor& cursor, const std::string& text,
          T (*parse)(const std::string&, size_t*)) {
  try {
    size_t used = 0;
    T value = parse(text, &used);
    if (used == text.size())
      return value;
  } catch (const std::exception&) {
  }
  cursor.fail("'" + text + "' is no such number");
}

c10::IValue parseList(Cursor& cursor, const c10::TypePtr& element) {
  c10::impl::GenericList list(element);
  cursor.expect("[");
  for (bool first = true; !cursor.eat("]"); first = false) {
    if (!first)
      cursor.expect(",");
    list.push_back(parseValue(cursor, element));
  }
  return list;
}

c10::IValue parseDict(Cursor& cursor, const c10::DictType& type) {
  c10::impl::GenericDict dict(type.getKeyType(), type.getValueType());
  cursor.expect("{");
  for (bool first = true; !cursor.eat("}"); first = false) {
    if (!first)
      cursor.expect(",");
    auto key = parseValue(cursor, type.getKeyType());
    cursor.expect(":");
    dict.insert_or_assign(key, parseValue(cursor, type.getValueType()));
  }
  return dict;
}

c10::IValue parseTuple(Cursor& cursor, const c10::TupleType& type) {
  std::vector<c10::IValue> elements;
  cursor.expect("(");
  for (const auto& element : type.elements()) {
    if (!elements.empty())
      cursor.expect(",");
    elements.push_back(parseValue(cursor, element));
  }
  cursor.expect(")");
  return c10::ivalue::Tuple::create(std::move(elements));
}

/// The texts of all values, or nothing when one has none.
template <typename Range>
std::optional<std::string> joined(const Range& range) {
  std::vector<std::string> texts;
  for (const c10::IValue& value : range) {
    auto text = valueText(value);
    if (!text)
      return std::nullopt;
    texts.push_back(*text);
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::string floatText(double value) {
  if (!std::isfinite(value))
    return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

} // namespace

c10::TypePtr parseType(Cursor& cursor, const std::string& text,
                       const TypeLookup& lookup) {
  if (text.find("__torch__.") == std::string::npos ||
      text.find("__torch__.torch.classes.") != std::string::npos)
    return parsePlainType(cursor, text);
  if (text.find_first_of("[](){}?, ") != std::string::npos)
    return parseCompound(cursor, std::string(trim(text)), lookup);
  auto type = lookup(text);
  if (!type)
    cursor.fail("class '" + text + "' is not declared");
  return type;
}

c10::TypePtr guessType(Cursor& cursor) {
  char next = cursor.peek();
  if (next == '"')
    return c10::StringType::get();
  Cursor ahead = cursor;
  std::string word = ahead.word("a literal");
  if (word == "true" || word == "false")
    return c10::BoolType::get();
  if (word == "none")
    return c10::NoneType::get();
  if (word.find_first_of(".en") != std::string::npos)
    return c10::FloatType::get();
  return c10::IntType::get();
}

c10::IValue parseValue(Cursor& cursor, const c10::TypePtr& type) {
  switch (type->kind()) {
  case c10::TypeKind::OptionalType:
    if (cursor.eat("none"))
      return c10::IValue();
    return parseValue(cursor,
                      type->expectRef<c10::OptionalType>().getElementType());
  case c10::TypeKind::NoneType:
    cursor.expect("none");
    return c10::IValue();
  case c10::TypeKind::BoolType:
    if (cursor.eat("true"))
      return true;
    cursor.expect("false");
    return false;
  case c10::TypeKind::IntType:
    return convert<int64_t>(cursor, parseNumber(cursor),
                            [](const std::string& s, size_t* n) {
                              return static_cast<int64_t>(std::stoll(s, n));
                            });
  case c10::TypeKind::FloatType:
    return convert<double>(
        cursor, parseNumber(cursor),
        [](const std::string& s, size_t* n) { return std::stod(s, n); });
  case c10::TypeKind::StringType:
    return cursor.string();
  case c10::TypeKind::DeviceObjType:
    return c10::Device(cursor.string());
  case c10::TypeKind::TensorType:
    return parseTensor(cursor, 0);
  case c10::TypeKind::ListType:
    return parseList(cursor, type->expectRef<c10::ListType>().getElementType());
  case c10::TypeKind::DictType:
    return parseDict(cursor, type->expectRef<c10::DictType>());
  case c10::TypeKind::TupleType:
    return parseTuple(cursor, type->expectRef<c10::TupleType>());
  default:
    cursor.fail("a value of type " + type->str() + " has no text form");
  }
}

std::optional<std::string> valueText(const c10::IValue& value) {
  if (value.isNone())
    return "none";
  if (value.isBool())
    return value.toBool() ? "true" : "false";
  if (value.isInt())
    return std::to_string(value.toInt());
  if (value.isDouble())
    return floatText(value.toDouble());
  if (value.isString())
    return quote(value.toStringRef());
  if (value.isDevice())
    return quote(value.toDevice().str());
  if (value.isTensor() && value.toTensor().defined())
    return tensorText(value.toTensor());
  auto wrap = [](const char* open, const std::optional<std::string>& inner,
                 const char* close) -> std::optional<std::string> {
    if (!inner)
      return std::nullopt;
    return open + *inner + close;
  };
  if (value.isList())
    return wrap("[", joined(value.toListRef()), "]");
  if (value.isTuple())
    return wrap("(", joined(value.toTupleRef().elements()), ")");
  if (value.isGenericDict()) {
    std::vector<std::string> entries;
    for (const auto& entry : value.toGenericDict()) {
      auto key = valueText(entry.key());
      auto element = valueText(entry.value());
      if (!key || !element)
        return std::nullopt;
      entries.push_back(*key + ": " + *element);
    }
    return fmt::format("{{{}}}", fmt::join(entries, ", "));
  }
  return std::nullopt;
}

} // namespace inv::opt
