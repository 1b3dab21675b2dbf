// Taking a part of a tensor: each gives its elements back, and together they
// may give the whole (analysis/Elements.h).
//
//   y = x[..., a:b:c], narrow(x, d, a, n)
//                                 constant, not negative bounds
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
#include "passes/rules/Indices.h"
#include "passes/rules/Match.h"

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

/// narrow(x, dim, start, length), which does not go beyond x's end.
std::optional<Elements> narrowOf(Node* n) {
  const auto dim = constantInt(n->input(1)), start = constantInt(n->input(2)),
             length = constantInt(n->input(3));
  if (!dim || !start || !length || *start < 0 || *length < 0)
    return std::nullopt;
  return Elements::slice(*dim, *start, *start + *length, 1);
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
  return indexElements(list->input(last), int64_t(last), context);
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
  } else if (n->kind() == aten::narrow && n->inputs().size() == 4) {
    part = narrowOf(n);
  } else if (n->kind() == aten::select && n->inputs().size() == 3) {
    const auto dim = constantInt(n->input(1)), at = constantInt(n->input(2));
    if (dim && at && *at >= 0)
      part = Elements::index(*dim, {*at}, nullptr);
    select = true;
  } else if (n->kind() == aten::index && n->inputs().size() == 2) {
    part = indexOf(n, context);
  } else if (n->kind() == aten::index_select && n->inputs().size() == 3) {
    if (auto dim = constantInt(n->input(1)))
      part = indexElements(n->input(2), *dim, context);
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
  addTensorsOf(*part, flow, c.others);
  // Where nothing else is read of x, 0, 1, 2, ... are all that there is.
  Elements::Term& term = part->terms[0];
  term.alone = term.indices && flow.value(x).readers.size() == 1;
  const int64_t dim = term.dim;
  c.elements = {*std::move(part)};
  c.emit = [dim, select](InverseBuilder& b) -> std::vector<Value*> {
    return {select ? b.graph().insert(aten::unsqueeze, {b.result(0), dim})
                   : b.result(0)};
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
