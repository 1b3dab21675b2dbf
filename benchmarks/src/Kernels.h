// The coupling arithmetic by itself: bytes moved per second.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace inv::bench {

/// Times a copy, the runtime's fused sums, and what eager ATen takes for the
/// same, on tensors beyond the caches; gigabytes per second of the bytes that
/// the algorithm has to move.
nlohmann::json measureKernels();

} // namespace inv::bench
