// One graph of an IR text.
#pragma once

#include "passes/import/IrText.h"

#include <memory>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// Parses a method's graph. parseIR reads no class types, no tensor or list
/// constants, and drops source comments and value names: all of that is done
/// here. A graph without %self gets one. Throws Error with file and line.
std::shared_ptr<torch::jit::Graph> parseGraph(const GraphText& text,
                                              const std::string& name,
                                              const c10::ClassTypePtr& self);

} // namespace inv::opt
