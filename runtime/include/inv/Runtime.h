// The C++ face of libinv_runtime.so. Training a rewritten model needs none of
// it: loading the library registers the operators. It is for programs that
// measure or test what the steps do.
#pragma once

#include <cstdint>
#include <string>

#define INV_API __attribute__((visibility("default")))

namespace inv {

/// What the steps of this process did since the last `resetStats`, and what of
/// theirs is alive now. All numbers count over all threads.
struct Stats {
  // Since the last reset:
  int64_t conditioners = 0; ///< conditioner evaluations (forward and replay)
  int64_t functions = 0;    ///< runs of a step's method `function`
  int64_t inverses = 0;     ///< runs of a step's method `inverse`
  int64_t pulls = 0;        ///< steps undone ahead of their own backward
  int64_t kept = 0;         ///< calls that kept x since a check failed
  int64_t rngSaved = 0;     ///< calls that kept a generator's state
  // Alive now; all are 0 when no step's output is referred to any more:
  int64_t liveSlots = 0;
  int64_t liveRecords = 0;
  int64_t liveNodes = 0;
};

INV_API Stats stats();

/// Sets the counters of events to 0. Does not touch the counts of live objects.
INV_API void resetStats();

/// Says of an operator of somebody else's library ("mylib::fused_norm") that
/// its result and its derivatives change little where its tensors change
/// little. By default a step whose code calls one keeps the states that it
/// reads: it might choose by their last bits, as a sort or a rounding does. To
/// be called before the first model that uses it runs. Also the operator
/// inv::trust_operator.
INV_API void trustOperator(const std::string& name);

/// The newest version of the contract in inv/Abi.h that this library serves
/// (abi::kVersion of the library, not of the header that the caller saw).
INV_API int64_t abiVersion();

} // namespace inv
