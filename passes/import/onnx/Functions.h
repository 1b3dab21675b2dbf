// Local functions of an ONNX model, which hostile files nest or make call
// themselves.
#pragma once

#include <onnx/onnx_pb.h>

namespace inv::opt {

/// Refuses (Error, BadInput) functions of one name, functions that call
/// themselves, directly or through others, and calls that would come to more
/// nodes than a model has: to be asked before anything walks through them.
void checkFunctions(const onnx::ModelProto& model);

} // namespace inv::opt
