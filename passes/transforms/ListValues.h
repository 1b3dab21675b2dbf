// Lists and dictionaries that are written in place, as values.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// See ListValues.cpp. Returns whether the graph changed.
bool writesToValues(torch::jit::Graph& graph);

} // namespace inv::opt
