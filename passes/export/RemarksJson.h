// Remarks as JSON (schema in docs/formats.md).
#pragma once

#include "passes/support/Remarks.h"

#include <string>

namespace inv::opt {

std::string remarksJson(const std::string& input, const Remarks& remarks);

} // namespace inv::opt
