// Constant indices as sets of elements. Internal to rules/.
#pragma once

#include "passes/rules/Rule.h"

#include <cstdint>
#include <optional>

namespace inv::opt {

/// The places that `indices` names along `dim` >= 0: a tensor of one dimension
/// that is a constant or follows from buffers, of integers none of which is
/// negative.
std::optional<Elements> indexElements(torch::jit::Value* indices, int64_t dim,
                                      const RuleContext& context);

} // namespace inv::opt
