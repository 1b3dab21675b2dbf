// Convolutions that mix channels only: kernel 1, stride 1, no padding.
//
//   y = conv1d / conv2d / conv3d (x, W, b)    W: [out, in, 1, ...], out >= in
//
// At each place it is a linear layer of the channels, and is undone as one
// (family "linear"): x = solve(W, y - b) with the channels moved to the end.
// The same conditions on W, the same refusals; rounding grows by its condition
// number. Not matched: larger kernels and strides, groups, padding, transposed
// convolutions.
#include "passes/rules/Match.h"
#include "passes/rules/WeightSolve.h"

#include <fmt/format.h>

#include <algorithm>

namespace inv::opt {

using namespace torch::jit;

namespace {

bool areAll(Value* list, int64_t wanted) {
  if (auto number = constantInt(list))
    return *number == wanted;
  auto numbers = constantInts(list);
  return numbers && std::all_of(numbers->begin(), numbers->end(),
                                [&](int64_t n) { return n == wanted; });
}

/// Whether the arguments leave each place of the input alone, as far as they
/// say; the kernel's size is the weight's.
bool mixesOnlyChannels(Node* n) {
  static const Symbol general = Symbol::fromQualString("aten::_convolution");
  const bool isGeneral = n->kind() == general || n->kind() == aten::convolution;
  if (!isGeneral && n->kind() != aten::conv1d && n->kind() != aten::conv2d &&
      n->kind() != aten::conv3d)
    return false;
  // (x, weight, bias, stride, padding, dilation, groups), or
  // (..., dilation, transposed, output_padding, groups, ...)
  if (n->inputs().size() < 7)
    return false;
  if (isGeneral && constantBool(n->input(6)) != false)
    return false;
  Value* groups = n->input(isGeneral ? 8 : 6);
  return areAll(n->input(3), 1) && areAll(n->input(4), 0) &&
         constantInt(groups) == 1;
}

} // namespace

void convolutionRule(NodeId id, const RuleContext& context,
                     std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (!n->kind().is_aten() || !mixesOnlyChannels(n))
    return;
  const ValueId x = flow.idOf(n->input(0)), w = flow.idOf(n->input(1));
  if (x < 0 || w < 0 || !flow.value(x).isActivation() ||
      flow.value(w).isActivation())
    return;
  const std::optional<at::Tensor> saved = savedValue(n->input(1), context);
  // A kernel of more than one place mixes neighbours: no candidate at all.
  if (saved && saved->dim() > 2 &&
      saved->numel() != saved->size(0) * saved->size(1))
    return;
  Candidate c;
  c.rule = "convolution";
  c.cls = RuleClass::Solve;
  c.solved = {x};
  if (!saved || saved->dim() < 3) {
    c.refused = Reason::WeightUnknown;
    c.detail = nameOf(n->input(1));
    out.push_back(std::move(c));
    return;
  }
  const WeightFacts facts =
      lookAtMatrix(saved->flatten(/*start_dim=*/1), context);
  c.refused = facts.refused;
  c.detail = facts.detail;
  c.amplification = std::max(1.0, facts.condition);
  c.others = {w};
  Value* bias = isNone(n->input(2)) ? nullptr : n->input(2);
  if (bias)
    c.others.push_back(flow.idOf(bias));
  // From the end, so that inputs without a batch are right as well.
  const int64_t channels = -(saved->dim() - 1);
  c.emit = [weight = n->input(1), bias, channels,
            square = facts.in ==
                     facts.out](InverseBuilder& b) -> std::vector<Value*> {
    Graph& g = b.graph();
    Value* y = g.insert(aten::movedim, {b.result(0), channels, -1});
    if (bias)
      y = g.insert(aten::sub, {y, b.operand(bias)});
    Value* matrix = g.insert(aten::flatten, {b.operand(weight), 1});
    Value* solved = solveRows(g, y, matrix, /*transposed=*/true, square);
    return {g.insert(aten::movedim, {solved, -1, channels})};
  };
  out.push_back(std::move(c));
}

} // namespace inv::opt
