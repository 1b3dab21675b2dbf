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

Tensors leavesOf(const Tensors& tensors, const std::vector<bool>& needsGrad,
                 size_t from) {
  Tensors result = detachAll(tensors);
  for (size_t i = 0; i < result.size(); i++)
    if (needsGrad[from + i])
      result[i].requires_grad_();
  return result;
}

Tensors replayConditioner(const Record& record, const ReplayGuard& guard,
                          Tensors z, Tensors captures) {
  guard.beforeConditioner();
  Tensors result = record.step->runConditioner(
      std::move(z), std::move(captures), record.extras);
  guard.afterConditioner();
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
  const StepLayout& layout = record.step->layout();
  const Tensors captures = record.captures();
  const ReplayGuard guard(record);
  Tensors aux;
  if (record.kind == StepKind::Coupling) {
    // With grad mode, as the forward ran: without, ATen has other kernels for
    // some operators. The graph is dropped at once.
    at::AutoGradMode gradMode(true);
    const size_t nx = record.numX;
    aux = detachAll(
        replayConditioner(record, guard, leavesOf(z, record.needsGrad, nx),
                          leavesOf(captures, record.needsGrad, nx + z.size())));
    z.clear();
    aux.resize(layout.numAux);
  }
  if (layout.arithmetic == Arithmetic::ScaledSum)
    return {scaledSumInverse(y[0], aux[0], layout, /*mayReuseY=*/false)};
  return runInverseChecked(record, guard, std::move(y), aux,
                           record.functionCaptures(captures));
}

} // namespace inv
