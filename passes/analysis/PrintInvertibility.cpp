// Prints what the analysis found, and changes nothing: for the eye, and for
// tests of the analysis that read no rewritten graph. Run it behind the passes
// that form-steps follows:
//
//   inv-opt model.pt -S
//     --passes=canonicalize,split-streams,print<invertibility>
//
// The first line gives what autograd keeps for backward in the plain model and
// what remains under the derivations: bytes with sample inputs, numbers of
// storages without. Then, in the order in which backward would take them, the
// derivations; then what is there in backward anyway or held for a derivation;
// then what is no longer kept:
//
//   kept for backward: 4 values before, 2 after
//   rebuild %x1 by sum of %y1 and %f, running 1 nodes again from %x2
//   held %x2            (a plain operator reads it in backward)
//   anchor %y1          (a step holds it; nobody else would)
//   dropped %h
//
// All of it is what the analysis decided, before steps are drafted: form-steps
// may still leave a derivation out, with a remark (not-movable). The blocks of
// ifs and loops follow, each under a line that names it:
//
//   block 0 of %y : Tensor = prim::Loop(%n, %true, %x)
#include "passes/Passes.h"
#include "passes/support/Remarks.h"
#include "passes/transforms/BlockPlan.h"

#include <fmt/format.h>

#include <iostream>

namespace inv::opt {

bool printInvertibility(PassContext& context) {
  MethodFacts facts(context);
  print(std::cout, findInvertibility(facts.rules), facts.flow);
  forEachPlan(BlockPlan(facts), [](const BlockPlan& plan) {
    if (!plan.flow().outer())
      return;
    const torch::jit::Block& block = plan.flow().block();
    const auto blocks = block.owningNode()->blocks();
    std::cout << fmt::format("block {} of {}\n",
                             std::find(blocks.begin(), blocks.end(), &block) -
                                 blocks.begin(),
                             oneLine(block.owningNode()));
    print(std::cout, plan.found, plan.flow());
  });
  return false;
}

} // namespace inv::opt
