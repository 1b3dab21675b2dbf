// Attribute values and types as text, as the IR preamble has them
// (docs/formats.md).
#pragma once

#include "passes/support/Cursor.h"

#include <functional>
#include <optional>
#include <string>

#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

namespace inv::opt {

/// The type with a qualified name such as __torch__.Net, or null.
using TypeLookup = std::function<c10::TypePtr(const std::string& name)>;

/// Reads a type as TorchScript prints it (`int[]`, `Tensor?`, `(int,
/// __torch__.Net)`). Class names are resolved by `lookup`.
c10::TypePtr parseType(Cursor& cursor, const std::string& text,
                       const TypeLookup& lookup);

/// Reads a literal of the type: `3`, `0.5`, `true`, `"text"`, `none`,
/// `[1, 2]`, `(1, none)`, `{"a": 1}`, and `DTYPE[SIZES] = ...` for a tensor.
c10::IValue parseValue(Cursor& cursor, const c10::TypePtr& type);
/// The type of the literal that comes next where none is declared: int, float,
/// bool, str or NoneType.
c10::TypePtr guessType(Cursor& cursor);
/// What parseValue reads back; nothing for a value that has no text.
std::optional<std::string> valueText(const c10::IValue& value);

} // namespace inv::opt
