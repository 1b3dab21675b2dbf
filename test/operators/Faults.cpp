// Memory that runs out where a test in Python wants it to, and is counted.
#include "../support/FailingAllocator.h"

#include "inv/CountingAllocator.h"

#include <torch/library.h>

namespace {

void failAt(int64_t n) {
  inv::test::FailingAllocator::installed().countdown = n;
}

/// Allocates as before from here on; was there a failure?
bool failed() {
  return inv::test::FailingAllocator::installed().countdown.exchange(0) == 0;
}

/// Bytes that are allocated, of those since the first call.
int64_t allocated() {
  inv::CountingAllocator::install();
  return inv::CountingAllocator::current();
}

} // namespace

TORCH_LIBRARY(inv_faults, library) {
  library.def("fail_at(int n) -> ()", failAt);
  library.def("failed() -> bool", failed);
  library.def("allocated() -> int", allocated);
}
