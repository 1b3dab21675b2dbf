// The table of ONNX operators (Operators.def) as the importer asks it.
#pragma once

#include "passes/import/onnx/Lowering.h"

#include <string>
#include <vector>

namespace inv::opt {

using LowerFunction = void (*)(Lowering&);

struct OnnxOperator {
  const char* name;
  /// The definitions (opset versions) that the lowering covers.
  int first, last;
  /// What it gives follows from its operands alone, so it may be computed once.
  bool pure;
  LowerFunction lower;
  const char* aten; ///< the operator of ATen that it is, where it is one
};

const std::vector<OnnxOperator>& onnxOperators();
/// The row of an operator of the default domain; null where there is none for
/// that definition.
const OnnxOperator* findOnnxOperator(const std::string& name, int version);

} // namespace inv::opt
