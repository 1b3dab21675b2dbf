#include "passes/rules/Indices.h"

#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

namespace inv::opt {

std::optional<Elements> indexElements(torch::jit::Value* indices, int64_t dim,
                                      const RuleContext& context) {
  constexpr int64_t kMostIndices = 1 << 20;
  const ValueId id = context.flow.idOf(indices);
  if (dim < 0 || id < 0 || !isFixedTensor(context.flow.value(id)))
    return std::nullopt;
  const auto value = savedValue(indices, context);
  if (!value || value->scalar_type() != at::kLong || value->dim() != 1 ||
      value->numel() == 0 || value->numel() > kMostIndices)
    return std::nullopt;
  const at::Tensor flat = value->cpu().contiguous();
  std::vector<int64_t> places(flat.data_ptr<int64_t>(),
                              flat.data_ptr<int64_t>() + flat.numel());
  for (int64_t place : places)
    if (place < 0)
      return std::nullopt;
  return Elements::index(dim, std::move(places), indices);
}

} // namespace inv::opt
