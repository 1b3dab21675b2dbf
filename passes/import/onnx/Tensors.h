// Tensors of an ONNX file.
#pragma once

#include "passes/import/onnx/ExternalData.h"

#include <ATen/core/Tensor.h>
#include <onnx/onnx_pb.h>

namespace inv::opt {

/// PyTorch's name of an ONNX element type; Undefined where it has none that
/// the importer reads (strings, 4 and 8 bit floats).
at::ScalarType scalarTypeOf(int onnxType);

/// The tensor's values. `name` names it in messages.
at::Tensor readTensor(const onnx::TensorProto& proto, const std::string& name,
                      ExternalData& files);

} // namespace inv::opt
