// Counters behind inv::stats().
#pragma once

#include <atomic>
#include <cstdint>

namespace inv {

struct Counters {
  std::atomic<int64_t> conditioners{0}, functions{0}, inverses{0}, pulls{0},
      kept{0}, rngSaved{0}, liveSlots{0}, liveRecords{0}, liveNodes{0};
};

/// The counters of this process; never destroyed, so that objects that die
/// after main() may still count.
Counters& counters();

/// Base that counts the live objects of a class.
template <std::atomic<int64_t> Counters::*kLive> struct Counted {
  Counted() { ++(counters().*kLive); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --(counters().*kLive); }
};

} // namespace inv
