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

/// Appends a bool tensor that is true for the masked elements or, if not
/// `inside`, for all others. `operand` gives the factors inside the graph that
/// is written. REQUIRES: e.isMasked().
inline torch::jit::Value* insertMask(
    torch::jit::Graph& graph, const Elements& e, bool inside,
    const std::function<torch::jit::Value*(torch::jit::Value*)>& operand) {
  using namespace torch::jit;
  const Symbol within = inside ? aten::logical_and : aten::logical_or;
  const Symbol between = inside ? aten::logical_or : aten::logical_and;
  Value* all = nullptr;
  for (const Elements::Term& term : e.terms) {
    Value* one = nullptr;
    for (const Elements::Factor& factor : term.factors) {
      Value* holds = graph.insert(factor.zero == inside ? aten::eq : aten::ne,
                                  {operand(factor.tensor), 0});
      one = one ? graph.insert(within, {one, holds}) : holds;
    }
    all = all ? graph.insert(between, {all, one}) : one;
  }
  return all;
}

/// The tensors that tell which elements are meant: factors of masks, indices.
inline void addTensorsOf(const Elements& e, const Dataflow& flow,
                         std::vector<ValueId>& out) {
  for (const Elements::Term& term : e.terms) {
    if (term.indices)
      out.push_back(flow.idOf(term.indices));
    for (const Elements::Factor& factor : term.factors)
      out.push_back(flow.idOf(factor.tensor));
  }
}

} // namespace inv::opt
