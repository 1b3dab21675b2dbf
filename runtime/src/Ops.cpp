// Registration of the operators in inv/Abi.h.
#include "Resplit.h"
#include "StepForward.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

#include <torch/library.h>

#include <algorithm>

namespace inv {
namespace {

using torch::jit::Stack;

template <class T> T take(Stack& stack);
template <> Tensors take(Stack& stack) {
  return torch::jit::pop(stack).toTensorVector();
}

/// Numbers, flags, strings, devices, None, and lists of them.
bool isExtra(const c10::IValue& value) {
  if (value.isList()) {
    const auto list = value.toListRef();
    return std::all_of(list.begin(), list.end(), isExtra);
  }
  return value.isNone() || value.isInt() || value.isDouble() ||
         value.isBool() || value.isString() || value.isDevice();
}

/// The tuple `extras`, element by element.
Extras takeExtras(StepKind kind, Stack& stack) {
  c10::IValue value = torch::jit::pop(stack);
  if (value.isNone())
    return {};
  TORCH_CHECK(value.isTuple(), opName(kind),
              ": the extras of a step are a tuple or None, got ",
              value.tagKind());
  Extras extras = value.toTupleRef().elements().vec();
  for (size_t i = 0; i < extras.size(); i++)
    TORCH_CHECK(isExtra(extras[i]), opName(kind), ": extra ", i,
                " of a step is a ", extras[i].tagKind(),
                "; extras are numbers, flags, strings, devices, None, and "
                "lists of them. A tensor must be a state or a capture, or no "
                "gradient would reach it.");
  return extras;
}

void coupling(const c10::OperatorHandle&, Stack* stack) {
  Extras extras = takeExtras(StepKind::Coupling, *stack);
  const auto captures = take<Tensors>(*stack);
  const auto z = take<Tensors>(*stack);
  const auto x = take<Tensors>(*stack);
  auto step = scriptStep(StepKind::Coupling, torch::jit::pop(*stack));
  torch::jit::push(*stack, runStep(StepKind::Coupling, std::move(step), x, z,
                                   captures, std::move(extras)));
}

void bijection(const c10::OperatorHandle&, Stack* stack) {
  Extras extras = takeExtras(StepKind::Bijection, *stack);
  const auto captures = take<Tensors>(*stack);
  const auto x = take<Tensors>(*stack);
  auto step = scriptStep(StepKind::Bijection, torch::jit::pop(*stack));
  torch::jit::push(*stack, runStep(StepKind::Bijection, std::move(step), x, {},
                                   captures, std::move(extras)));
}

void checkpoint(const c10::OperatorHandle&, Stack* stack) {
  Extras extras = takeExtras(StepKind::Checkpoint, *stack);
  const auto captures = take<Tensors>(*stack);
  const auto z = take<Tensors>(*stack);
  auto step = scriptStep(StepKind::Checkpoint, torch::jit::pop(*stack));
  torch::jit::push(*stack, runStep(StepKind::Checkpoint, std::move(step), {}, z,
                                   captures, std::move(extras)));
}

// The operator's schema is inferred from the types: a string comes by value.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
Tensors resplitOp(const Tensors& parts, int64_t partsDim, std::string how,
                  const std::vector<int64_t>& args, int64_t dim) {
  return resplit(parts, partsDim, how, args, dim);
}

c10::Dict<std::string, int64_t> statsOp() {
  const Stats s = stats();
  c10::Dict<std::string, int64_t> result;
  result.insert("conditioners", s.conditioners);
  result.insert("functions", s.functions);
  result.insert("inverses", s.inverses);
  result.insert("pulls", s.pulls);
  result.insert("kept", s.kept);
  result.insert("rng_saved", s.rngSaved);
  result.insert("live_slots", s.liveSlots);
  result.insert("live_records", s.liveRecords);
  result.insert("live_nodes", s.liveNodes);
  return result;
}

} // namespace
} // namespace inv

TORCH_LIBRARY(inv, m) {
  // Conservative: the executors must not merge two calls, drop one, or move one
  // over a write. By its looks a step's schema is pure, but a step may draw
  // random numbers and write buffers, and may return what it was given.
  const auto def = [&m](const std::string& schema) {
    m.def(torch::schema(schema.c_str(), c10::AliasAnalysisKind::CONSERVATIVE));
  };
  def("coupling(Any step, Tensor[] x, Tensor[] z, Tensor[] captures, "
      "Any extras) -> Tensor[]");
  def("bijection(Any step, Tensor[] x, Tensor[] captures, Any extras) "
      "-> Tensor[]");
  def("checkpoint(Any step, Tensor[] z, Tensor[] captures, Any extras) "
      "-> Tensor[]");
  m.impl("coupling",
         torch::CppFunction::makeFromBoxedFunction<&inv::coupling>());
  m.impl("bijection",
         torch::CppFunction::makeFromBoxedFunction<&inv::bijection>());
  m.impl("checkpoint",
         torch::CppFunction::makeFromBoxedFunction<&inv::checkpoint>());

  def("resplit(Tensor[] parts, int parts_dim, str how, int[] args, int dim) "
      "-> Tensor[]");
  m.impl("resplit", &inv::resplitOp);
  def("as_piece(Tensor part, int dim, int offset, int total) -> Tensor");
  m.impl("as_piece", &inv::asPiece);

  for (int64_t v = inv::abi::kOldestSupported; v <= inv::abi::kVersion; v++) {
    const std::string name = std::string(inv::abi::kNeedsPrefix)
                                 .substr(std::string("inv::").size()) +
                             std::to_string(v);
    def(name + "() -> ()");
    m.impl(name.c_str(), [] {});
  }

  def("stats() -> Dict(str, int)");
  m.impl("stats", &inv::statsOp);
  def("reset_stats() -> ()");
  m.impl("reset_stats", [] { inv::resetStats(); });
  def("trust_operator(str name) -> ()");
  m.impl("trust_operator",
         [](const std::string& name) { inv::trustOperator(name); });
}

// Under vmap the plain operators do the work, as they do for all tensors that
// slots cannot stand for.
TORCH_LIBRARY_IMPL(inv, FuncTorchBatched, m) {
  m.impl("coupling",
         torch::CppFunction::makeFromBoxedFunction<&inv::coupling>());
  m.impl("bijection",
         torch::CppFunction::makeFromBoxedFunction<&inv::bijection>());
  m.impl("checkpoint",
         torch::CppFunction::makeFromBoxedFunction<&inv::checkpoint>());
  m.impl("resplit", &inv::resplitOp);
  m.impl("as_piece", &inv::asPiece);
}
