// The order and the names in which the code of an archive is read by people.
#pragma once

#include <memory>

namespace torch::jit {
struct Graph;
} // namespace torch::jit

namespace inv::opt {

/// Reorders `graph` so that LibTorch's printer writes
///
///   f = getattr(blocks, "0").f
///   y, x2_, = ops.inv.coupling(self.inv_step_0, [x1], [x2], [f.conv.weight])
///
/// instead of one line per attribute, far above its use, and names the results
/// of steps after the states that they are made from. The graph computes what
/// it did. Attribute reads stay in their block; a graph that sets attributes is
/// left as it is.
void arrangeForReading(torch::jit::Graph& graph);

} // namespace inv::opt
