// Reads an ONNX file: parse, check, inline, infer.
#pragma once

#include "passes/import/onnx/OnnxModel.h"

#include <functional>
#include <string>

namespace inv::opt {

/// Whether an operator of the default domain can be lowered, in the definition
/// of that version.
using Covers = std::function<bool(const std::string& op, int version)>;

/// The model in `path` (in `bytes`, where the path is "-"). With `isText` it is
/// ONNX's own text form. Local functions are inlined, and operators that are
/// not covered where ONNX defines them by a function of others. Throws Error:
/// BadInput for what is no valid model, Io where a file cannot be read.
OnnxModel readOnnx(const std::string& path, const std::string& bytes,
                   bool isText, const Covers& covers);

/// The newest opset of the default domain that this build knows.
int newestOpset();

} // namespace inv::opt
