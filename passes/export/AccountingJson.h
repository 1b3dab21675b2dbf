// The accounting as JSON (schema: docs/formats.md).
#pragma once

#include "passes/analysis/Accounting.h"

#include <string>
#include <vector>

namespace inv::opt {

/// `input`: the input as the command line named it.
std::string accountingJson(const std::string& input,
                           const std::vector<Accounting>& methods);

} // namespace inv::opt
