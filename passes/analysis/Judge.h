// Which derivations pay: bytes that they drop against bytes that they hold.
// Internal to analysis/.
#pragma once

#include "passes/analysis/Sweep.h"

namespace inv::opt {

struct Verdict {
  /// Derivations to keep, in order; a subset of the sweep's.
  std::vector<Derivation> kept;
  /// To be banned in the next sweep; empty when the verdict is final.
  Bans bans;
  std::vector<Refusal> refusals;
  std::vector<ValueId> dropped; ///< storages no longer kept, ascending
  int64_t keptBefore = 0, keptAfter = 0;
};

Verdict judge(const RuleContext& context, const Sweep& sweep);

} // namespace inv::opt
