// The module that an IR preamble declares.
#pragma once

#include "passes/import/IrText.h"

#include <string>

#include <torch/csrc/jit/api/module.h>

namespace inv::opt {

/// Builds the module: classes, attributes and constants; no methods yet.
torch::jit::Module buildModule(const IrUnit& unit, const std::string& name);

} // namespace inv::opt
