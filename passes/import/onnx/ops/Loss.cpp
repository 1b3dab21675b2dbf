// Losses.
#include "passes/import/onnx/ops/Support.h"

namespace inv::opt::lower {

namespace {

/// nll_loss of operand 1 and, where there is one, operand 2 on `logs`.
Value* likelihood(Lowering& b, Value* logs) {
  std::string how = b.stringAttribute("reduction", "mean");
  int64_t reduction = how == "none" ? 0 : (how == "sum" ? 2 : 1);
  NamedValue weight = b.has(2) ? NamedValue(b.in(2)) : NamedValue(none());
  Value* target = b.cast(b.in(1), at::kLong);
  return b.call("nll_loss_nd", {logs, target, weight, reduction,
                                b.intAttribute("ignore_index", -100)});
}

} // namespace

void negativeLogLikelihood(Lowering& b) { b.out(likelihood(b, b.in(0))); }

void softmaxCrossEntropy(Lowering& b) {
  Value* logs = b.call("log_softmax", {b.in(0), 1, none()});
  b.out(likelihood(b, logs));
  if (b.wants(1))
    b.out(logs, 1);
}

} // namespace inv::opt::lower
