// Attributes that decide what the code looks like.
#pragma once

#include "passes/Model.h"

#include <set>
#include <string>

namespace inv::opt {

/// Names of the attributes that some code of the model writes.
std::set<std::string> writtenAttributes(const PassContext& context);

/// See ResolveAttributes.cpp. `written` is what writtenAttributes() says.
/// Returns whether the graph changed.
bool resolveAttributes(PassContext& context,
                       const std::set<std::string>& written);

} // namespace inv::opt
