// Brings a graph into the one form that the analysis reads.
//
// The same function is written in many ways: chunk or two slices, x += y or
// x + y, a size as an int or as a tensor, a parameter read once or per call.
// Each helper below removes one such difference and opens with why that is
// sound; every one keeps the forward result and the gradients bit for bit, and
// keeps what the original refuses (errors of autograd about overwritten values)
// refused.
//
//   before                                   after
//   %l = aten::chunk(%x, %2, %1)             %l = aten::chunk(%x, %2, %1)
//   %a = aten::__getitem__(%l, %0)           %a, %b = prim::ListUnpack(%l)
//   %b = aten::__getitem__(%l, %1)           %f = aten::conv2d(%b, ...)
//   %f = aten::conv2d(%b, ...)               %y = aten::add(%a, %r, %1)
//   %s = aten::slice(%f, %0, %0, %max, %1)
//   %y = aten::add(%a, %s, %1)
//
// The order matters: lists first, since they hide values; reads merged before
// slices are joined, since a split point is recognised by being the same value;
// in-place operators before identities, since dropout and slices return their
// operand and only then may readers be exchanged freely; the schedule last.
//
// Left alone: control flow (blocks are entered, never changed in shape), calls
// of annotated modules, and the spellings of a linear layer. addmm(b, x, w.t())
// and matmul(x, w.t()) + b are not turned into aten::linear: in float64 the
// last bit of `matmul + b` differs (measured: 31 outputs), and the analysis
// matches the spellings as they are.
#include "passes/Passes.h"

#include "passes/support/GraphUtil.h"
#include "passes/transforms/FoldBranches.h"
#include "passes/transforms/FoldSizes.h"
#include "passes/transforms/Functionalize.h"
#include "passes/transforms/JoinSlices.h"
#include "passes/transforms/LowerLists.h"
#include "passes/transforms/MergeReads.h"
#include "passes/transforms/RemoveIdentities.h"
#include "passes/transforms/Schedule.h"

namespace inv::opt {

bool canonicalize(PassContext& ctx) {
  torch::jit::Graph& graph = *ctx.method.graph;
  bool changed = removeDeadNodes(graph);
  changed |= foldBranches(ctx);
  changed |= lowerLists(graph);
  // Sizes that are now ints make equal what tensors hid.
  changed |= mergeReads(graph);
  if (foldSizes(graph)) {
    changed = true;
    mergeReads(graph);
  }
  changed |= functionalize(graph);
  changed |= removeIdentities(graph);
  changed |= joinSlices(graph);
  changed |= mergeReads(graph);
  changed |= schedule(graph);
  return changed;
}

} // namespace inv::opt
