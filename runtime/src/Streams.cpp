#include "Streams.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace inv {

std::optional<c10::Stream> currentStream(const at::Tensor& t) {
  if (t.is_cpu())
    return std::nullopt;
  return c10::impl::VirtualGuardImpl(t.device().type()).getStream(t.device());
}

void useHere(const at::Tensor& t, const c10::Stream& madeOn) {
  const std::optional<c10::Stream> here = currentStream(t);
  if (!here || *here == madeOn)
    return;
  // Recorded now: behind all that the other stream has been given so far.
  c10::Event made(madeOn.device_type());
  made.record(madeOn);
  made.block(*here);
  at::Tensor(t).record_stream(*here);
}

} // namespace inv
