// Products of matrices.
#include "passes/import/onnx/ops/Support.h"

namespace inv::opt::lower {

/// A linear layer where it is one, as PyTorch exports it.
void gemm(Lowering& b) {
  double alpha = b.floatAttribute("alpha", 1),
         beta = b.floatAttribute("beta", 1);
  bool transA = b.intAttribute("transA", 0) != 0;
  bool transB = b.intAttribute("transB", 0) != 0;
  bool vector = !b.has(2) || b.rank(2) == 1;
  // A bias of one element is spread by addmm, and not by linear.
  bool bias = !b.has(2) || (b.shape(2).size() == 1 && b.shape(2)[0] != 1);
  if (alpha == 1 && beta == 1 && !transA && transB && vector && bias &&
      b.isFloat(0)) {
    if (b.has(2))
      return b.out(b.call("linear", {b.in(0), b.in(1), b.in(2)}));
    return b.out(b.call("linear", {b.in(0), b.in(1)}));
  }
  Value* x = transA ? b.call("t", {b.in(0)}) : b.in(0);
  Value* m = transB ? b.call("t", {b.in(1)}) : b.in(1);
  auto factor = [&](double number) {
    return b.isFloat(0) ? c10::IValue(number) : c10::IValue(int64_t(number));
  };
  if (b.has(2))
    return b.out(b.call("addmm", {b.in(2), x, m},
                        {NamedValue("beta", factor(beta)),
                         NamedValue("alpha", factor(alpha))}));
  Value* y = b.call("mm", {x, m});
  b.out(alpha == 1 ? y : b.call("mul", {y, factor(alpha)}));
}

void matmul(Lowering& b) { b.out(b.call("matmul", {b.in(0), b.in(1)})); }

void einsum(Lowering& b) {
  std::vector<Value*> operands;
  for (size_t i = 0; i < b.inputs(); ++i)
    operands.push_back(b.in(i));
  b.out(
      b.call("einsum", {b.stringAttribute("equation", ""), b.list(operands)}));
}

void determinant(Lowering& b) { b.out(b.call("linalg_det", {b.in(0)})); }

} // namespace inv::opt::lower
