#include "CallChecks.h"

#include <ATen/ExpandUtils.h>

#include <algorithm>

namespace inv {
namespace {

bool isOrdinary(const at::Tensor& t) {
  if (!t.defined() || !(t.is_cpu() || t.is_cuda()) ||
      t.layout() != at::kStrided || !t.has_storage() || t.is_inference() ||
      t._fw_grad(/*level=*/0).defined())
    return false;
  const c10::DispatchKeySet keys = t.unsafeGetTensorImpl()->key_set();
  return !keys.has(c10::DispatchKey::Python) &&
         !keys.has(c10::DispatchKey::Functionalize);
}

int64_t numel(const Tensors& list) {
  int64_t n = 0;
  for (const at::Tensor& t : list)
    n += t.numel();
  return n;
}

std::vector<std::vector<int64_t>> sortedSizes(const Tensors& list) {
  std::vector<std::vector<int64_t>> result;
  for (const at::Tensor& t : list)
    result.push_back(t.sizes().vec());
  std::sort(result.begin(), result.end());
  return result;
}

/// Values of x are repeated in y, so that undoing y gives other sizes. (A step
/// that reads x alone may well have another number of elements in y: a linear
/// layer, a padding.)
bool isBroadcast(const Tensors& x, const Tensors& y, bool readsStates) {
  if (x.size() != y.size())
    return false;
  if (readsStates && numel(y) != numel(x))
    return true;
  if (sortedSizes(x) == sortedSizes(y))
    return false;
  for (size_t i = 0; i < x.size(); i++)
    if (x[i].numel() != y[i].numel() &&
        at::is_expandable_to(x[i].sizes(), y[i].sizes()))
      return true;
  return false;
}

} // namespace

bool areOrdinary(std::initializer_list<const Tensors*> lists) {
  return std::all_of(lists.begin(), lists.end(), [](const Tensors* list) {
    return std::all_of(list->begin(), list->end(), isOrdinary);
  });
}

const char* whyNotInvertible(const Tensors& x, const Tensors& y,
                             bool readsStates, bool resizes) {
  for (const Tensors* states : {&x, &y})
    for (const at::Tensor& t : *states) {
      if (t.scalar_type() != at::kFloat && t.scalar_type() != at::kDouble)
        return "its states are neither float32 nor float64, so undoing it "
               "would lose too much";
      if (t.scalar_type() != x[0].scalar_type())
        return "the state changes its dtype";
      if (t.device() != x[0].device())
        return "the state changes its device";
    }
  return !resizes && isBroadcast(x, y, readsStates) ? "the state is broadcast"
                                                    : nullptr;
}

} // namespace inv
