// Tensors that one stream of an accelerator makes and another reads.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <optional>

namespace inv {

/// The stream on which this thread gives work to the device of `t`; nothing for
/// the CPU.
std::optional<c10::Stream> currentStream(const at::Tensor& t);

/// `t`, made by work on `madeOn`, is about to be read by work on this thread's
/// stream: which waits for the other, and keeps t's memory from being given
/// away meanwhile. The host does not wait.
void useHere(const at::Tensor& t, const c10::Stream& madeOn);

} // namespace inv
