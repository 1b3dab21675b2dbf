// Small questions that the rules ask of a node.
#pragma once

#include "passes/rules/Rule.h"
#include "passes/support/GraphUtil.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// The number that `v` is a constant of: a Python scalar or a 0-dim tensor
/// constant; nothing otherwise.
inline std::optional<double> constantScalar(const torch::jit::Value* v) {
  auto constant = torch::jit::toIValue(v);
  if (constant && constant->isTensor() && constant->toTensor().defined() &&
      constant->toTensor().dim() == 0 && !constant->toTensor().is_complex())
    return constant->toTensor().item<double>();
  return constantNumber(v);
}

inline bool isTensor(const ValueInfo& v) {
  return v.value->type()->isSubtypeOf(*c10::TensorType::get());
}

/// A tensor that is there in backward whatever happens: a parameter, a
/// constant, or computed from such.
inline bool isFixedTensor(const ValueInfo& v) {
  return isTensor(v) && !v.isActivation();
}

} // namespace inv::opt
