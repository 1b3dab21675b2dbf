#include "Stats.h"

#include "inv/Abi.h"
#include "inv/Runtime.h"

namespace inv {

Counters& counters() {
  static auto* all = new Counters;
  return *all;
}

Stats stats() {
  const Counters& c = counters();
  Stats s;
  s.conditioners = c.conditioners;
  s.functions = c.functions;
  s.inverses = c.inverses;
  s.pulls = c.pulls;
  s.kept = c.kept;
  s.rngSaved = c.rngSaved;
  s.liveSlots = c.liveSlots;
  s.liveRecords = c.liveRecords;
  s.liveNodes = c.liveNodes;
  return s;
}

void resetStats() {
  Counters& c = counters();
  for (auto* events : {&c.conditioners, &c.functions, &c.inverses, &c.pulls,
                       &c.kept, &c.rngSaved})
    *events = 0;
}

int64_t abiVersion() { return abi::kVersion; }

} // namespace inv
