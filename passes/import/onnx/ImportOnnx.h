// ONNX in: a model file becomes a TorchScript module (docs/onnx.md).
#pragma once

#include "passes/import/Import.h"

namespace inv::opt {

/// Reads the ONNX model that `input` names into input.models: one model, with
/// the method `forward`. Throws Error: BadInput for what is no valid model or
/// holds operators that are not covered (all of them named), Io where a file
/// cannot be read.
void importOnnx(Input& input, const ImportOptions& options);

/// The operators that are covered, one a line: name, first and last definition.
std::string onnxOperatorList();

} // namespace inv::opt
