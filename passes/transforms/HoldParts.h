// States in which the input of their own network is left unchanged.
#pragma once

#include "passes/Model.h"

namespace inv::opt {

/// See HoldParts.cpp. Returns whether the graph changed.
bool holdParts(PassContext& context);

} // namespace inv::opt
