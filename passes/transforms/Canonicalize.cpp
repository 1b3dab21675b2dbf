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
//   %f = aten::conv2d(%b, ...)               %y = aten::add(%a, %f, %1)
//   %s = aten::slice(%f, %0, %0, %max, %1)
//   %y = aten::add(%a, %s, %1)
//
// The order matters: lists first, since they hide values; reads merged before
// slices are joined, since a split point is recognised by being the same value;
// in-place operators before identities, since dropout and slices return their
// operand and only then may readers be exchanged freely; writes into a fresh
// tensor gathered before slices are joined, since a slice that is written is no
// piece of a split; parts that a state leaves unchanged when all is in place;
// the schedule last.
//
// Two operators of the compiler's own come out of it, which stand for something
// that the model has no one value for, and are written out again before
// anything leaves the compiler:
//
//   inv_opt::written   a tensor into which pieces were written (y[:, ::2] = a)
//   inv_opt::holds     a state, and the input of its network that it has
//                      unchanged (y = x * exp(n * s(m * x)) + n * t(m * x))
//
// Ifs and loops keep their shape, but for branches that the saved model has
// decided, loops over the elements of a list, which are unrolled, tuples and
// lists that they hand on, which become one result for each element, and
// results that nobody reads.
//
// Attributes. `training` and whatever the model itself writes stay what they
// are. A number, flag or string that decides the shape of the code (a branch,
// how many groups there are) is taken to stay what the saved model says: the
// method raises where it is changed (ResolveAttributes.cpp), and a remark says
// which these are. To switch such a flag, set it and rewrite the model again.
//
// Left alone: calls of annotated modules, and the spellings of a linear layer.
// addmm(b, x, w.t()) and matmul(x, w.t()) + b are not turned into aten::linear:
// in float64 the last bit of `matmul + b` differs (measured: 31 outputs), and
// the analysis matches the spellings as they are.
#include "passes/Passes.h"

#include "passes/support/GraphUtil.h"
#include "passes/transforms/DeadResults.h"
#include "passes/transforms/FlattenResults.h"
#include "passes/transforms/FoldBranches.h"
#include "passes/transforms/FoldSizes.h"
#include "passes/transforms/Functionalize.h"
#include "passes/transforms/GatherWrites.h"
#include "passes/transforms/HoldParts.h"
#include "passes/transforms/JoinSlices.h"
#include "passes/transforms/ListValues.h"
#include "passes/transforms/LowerLists.h"
#include "passes/transforms/MergeReads.h"
#include "passes/transforms/RemoveIdentities.h"
#include "passes/transforms/ResolveAttributes.h"
#include "passes/transforms/Schedule.h"
#include "passes/transforms/UnrollLoops.h"

#include <set>
#include <string>

namespace inv::opt {

/// What decides the shape of the code comes to light step by step: the length
/// of a list tells how often a loop runs, and with the loop unrolled the list
/// behind it has a length.
static bool shapeCode(PassContext& ctx) {
  constexpr int kMostRounds = 16;
  torch::jit::Graph& graph = *ctx.method.graph;
  const std::set<std::string> written = writtenAttributes(ctx);
  bool changed = false;
  for (int round = 0; round < kMostRounds; ++round) {
    bool now = resolveAttributes(ctx, written);
    now |= foldBranches(ctx, written);
    now |= writesToValues(graph);
    now |= flattenResults(graph);
    if (removeDeadResults(graph)) {
      removeDeadNodes(graph);
      now = true;
    }
    now |= lowerLists(graph);
    now |= unrollLoops(graph);
    changed |= now;
    if (!now)
      break;
  }
  return changed;
}

bool canonicalize(PassContext& ctx) {
  torch::jit::Graph& graph = *ctx.method.graph;
  bool changed = removeDeadNodes(graph);
  changed |= shapeCode(ctx);
  // Sizes that are now ints make equal what tensors hid.
  changed |= mergeReads(graph);
  if (foldSizes(graph)) {
    changed = true;
    mergeReads(graph);
  }
  changed |= functionalize(graph);
  if (gatherWrites(graph)) {
    changed = true;
    functionalize(graph);
    mergeReads(graph);
  }
  changed |= removeIdentities(graph);
  changed |= joinSlices(graph);
  changed |= mergeReads(graph);
  changed |= holdParts(ctx);
  changed |= schedule(graph);
  return changed;
}

} // namespace inv::opt
