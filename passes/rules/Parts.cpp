// Taking a part of a tensor: each gives its elements back, and together they
// may give the whole (analysis/Elements.h).
//
//   y = x[..., a:b:c]             constant, not negative bounds
//   y = x.select(d, i)            constant i >= 0
//   y = x[:, indices], index_select(x, d, indices)
//                                 constant indices, or those of a buffer
//
// Exact. x[..., ::2] and x[..., 1::2] give x, whatever its size; indices give
// it where they name each place up to the largest, and x ends there, which the
// step compares in forward. One permutation is the simplest case. Slices that
// are cut at one bound (x[:, :k], x[:, k:]) are a split (transforms/JoinSlices)
// and of family "split-join". Not matched: bounds counted from the end, indices
// that the method computes from its input, masks as indices.
#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

namespace inv::opt {

using namespace torch::jit;

namespace {

std::optional<Elements> sliceOf(Node* n) {
  if (n->inputs().size() != 5)
    return std::nullopt;
  const auto dim = constantInt(n->input(1));
  const auto start = isNone(n->input(2)) ? 0 : constantInt(n->input(2));
  const auto end = isNone(n->input(3)) ? kOpenEnd : constantInt(n->input(3));
  const auto step = constantInt(n->input(4));
  if (!dim || !start || !end || !step || *start < 0 || *end < 0 || *step < 1)
    return std::nullopt;
  return Elements::slice(*dim, *start, *end, *step);
}

/// The places that `indices` names, along `dim` >= 0.
std::optional<Elements> indexOf(Value* indices, int64_t dim,
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

/// x[:, :, indices] alone, without a second index.
std::optional<Elements> indexOf(Node* n, const RuleContext& context) {
  Node* list = n->input(1)->node();
  if (list->kind() != prim::ListConstruct || list->inputs().empty())
    return std::nullopt;
  const size_t last = list->inputs().size() - 1;
  for (size_t i = 0; i < last; ++i)
    if (!isNone(list->input(i)))
      return std::nullopt;
  if (isNone(list->input(last)))
    return std::nullopt;
  return indexOf(list->input(last), int64_t(last), context);
}

} // namespace

void partsRule(NodeId id, const RuleContext& context,
               std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  std::optional<Elements> part;
  bool select = false;
  if (n->kind() == aten::slice) {
    part = sliceOf(n);
  } else if (n->kind() == aten::select && n->inputs().size() == 3) {
    const auto dim = constantInt(n->input(1)), at = constantInt(n->input(2));
    if (dim && at && *at >= 0)
      part = Elements::index(*dim, {*at}, nullptr);
    select = true;
  } else if (n->kind() == aten::index && n->inputs().size() == 2) {
    part = indexOf(n, context);
  } else if (n->kind() == aten::index_select && n->inputs().size() == 3) {
    if (auto dim = constantInt(n->input(1)))
      part = indexOf(n->input(2), *dim, context);
  }
  if (!part)
    return;
  const ValueId x = flow.idOf(n->input(0));
  if (x < 0 || !flow.value(x).isActivation() || !isTensor(flow.value(x)))
    return;
  Candidate c;
  c.rule = "part";
  c.cls = RuleClass::Free;
  c.solved = {x};
  c.needsSizes = true;
  if (part->indices)
    c.others = {flow.idOf(part->indices)};
  const int64_t dim = part->dim;
  c.elements = {*std::move(part)};
  c.emit = [dim, select](InverseBuilder& b) -> std::vector<Value*> {
    return {select ? b.graph().insert(aten::unsqueeze, {b.result(0), dim})
                   : b.result(0)};
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
