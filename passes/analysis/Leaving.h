// Which values may come out of a method as they are.
#pragma once

#include <unordered_set>

namespace torch::jit {
struct Graph;
struct Value;
} // namespace torch::jit

namespace inv::opt {

/// Values that a call may return themselves, on whatever way through ifs, loops
/// and containers; and what they may share storage with. Where a step hands
/// such a state back, the caller must get the state, not what the step handed
/// back: of that, a gradient is that of later uses alone.
std::unordered_set<const torch::jit::Value*>
leavingValues(torch::jit::Graph& graph);

} // namespace inv::opt
