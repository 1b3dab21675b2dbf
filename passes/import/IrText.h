// Printed TorchScript IR with a preamble that declares the module
// (docs/formats.md).
#pragma once

#include "passes/import/Import.h"

#include <string>
#include <utility>
#include <vector>

namespace inv::opt {

/// One graph of a text, as it stands there.
struct GraphText {
  std::string method;   ///< "forward", or "__torch__.Block.inverse"
  std::string text;     ///< from `graph(` to the return statement
  size_t firstLine = 0; ///< line of `graph(` in the file, from 1
};

/// A declaration of the preamble, without its `#`.
struct Declaration {
  std::string text;
  size_t line = 0;
};

/// The part of a text between two separator lines: one module.
struct IrUnit {
  std::vector<Declaration> declarations;
  std::vector<GraphText> graphs;
};

/// Splits a text at its separator lines (`// -----`). Throws Error for text
/// that belongs to nothing.
std::vector<IrUnit> splitIrText(const std::string& text,
                                const std::string& name);

/// Reads all parts of a text. `name` is what messages call it.
std::vector<Model> parseIrText(const std::string& text, const std::string& name,
                               const ImportOptions& options);

} // namespace inv::opt
