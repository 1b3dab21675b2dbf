#include "Undo.h"

#include "ScaledSum.h"

#include <ATen/core/grad_mode.h>

namespace inv {

Tensors detachAll(const Tensors& tensors) {
  Tensors result;
  result.reserve(tensors.size());
  for (const at::Tensor& t : tensors)
    result.push_back(t.detach());
  return result;
}

Tensors runInverseChecked(const Record& record, const ReplayGuard& guard,
                          Tensors y, const Tensors& aux,
                          const Tensors& captures) {
  at::NoGradGuard noGrad;
  guard.beforeFunction();
  Tensors x = record.step->runInverse(
      std::move(y), detachAll(aux), detachAll(captures), record.functionExtras);
  TORCH_CHECK(x.size() == record.numX, describe(record.kind, *record.step),
              ": its inverse returned ", x.size(), " tensors, the step took ",
              record.numX);
  return x;
}

Tensors undoRecord(const Record& record, Tensors y, Tensors z) {
  at::NoGradGuard noGrad;
  const StepLayout& layout = record.step->layout();
  Tensors captures = detachAll(record.captures());
  const ReplayGuard guard(record.replay);
  Tensors aux;
  if (record.kind == StepKind::Coupling) {
    guard.beforeConditioner();
    aux = record.step->runConditioner(detachAll(z), captures, record.extras);
    aux.resize(layout.numAux);
  }
  if (layout.arithmetic == Arithmetic::ScaledSum)
    return {scaledSumInverse(y[0], aux[0], layout, /*mayReuseY=*/false)};
  return runInverseChecked(record, guard, std::move(y), aux,
                           record.functionCaptures(captures));
}

} // namespace inv
