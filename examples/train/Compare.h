// Original and rewritten model, side by side in one process.
#pragma once

#include "Digits.h"
#include "Options.h"

#include <nlohmann/json_fwd.hpp>

namespace inv::train {

/// Trains both models from equal weights, on the same batches, with the same
/// random numbers, in turn, and writes what it found into `result` (fields in
/// examples/README.md). Returns 0, or 1 where a check failed that the options
/// ask for, or the forward results or the losses of the first step differ;
/// each failure is one line on standard error. Throws std::runtime_error where
/// the two are not the same model.
int compare(const Options& options, nlohmann::json& result);

} // namespace inv::train
