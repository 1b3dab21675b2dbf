#include "passes/import/onnx/Operators.h"

#include <algorithm>

namespace inv::opt {

namespace lower {
#define ONNX_OP(name, first, last, function, aten) void function(Lowering&);
#define ONNX_RANDOM ONNX_OP
#include "passes/import/onnx/Operators.def"
#undef ONNX_RANDOM
#undef ONNX_OP
} // namespace lower

const std::vector<OnnxOperator>& onnxOperators() {
  static const std::vector<OnnxOperator> kTable = {
#define ONNX_OP(name, first, last, function, aten)                             \
  {#name, first, last, true, lower::function, aten},
#define ONNX_RANDOM(name, first, last, function, aten)                         \
  {#name, first, last, false, lower::function, aten},
#include "passes/import/onnx/Operators.def"
#undef ONNX_RANDOM
#undef ONNX_OP
  };
  return kTable;
}

const OnnxOperator* findOnnxOperator(const std::string& name, int version) {
  const auto& table = onnxOperators();
  auto it = std::find_if(table.begin(), table.end(), [&](const auto& row) {
    return name == row.name && row.first <= version && version <= row.last;
  });
  return it == table.end() ? nullptr : &*it;
}

} // namespace inv::opt
