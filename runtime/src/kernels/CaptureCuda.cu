// Whether a CUDA graph is being captured: only CUDA's library can tell.
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace inv::kernels {
namespace {

bool isCapturing(const at::Tensor& t) {
  const c10::cuda::CUDAGuard guard(t.device());
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() !=
         c10::cuda::CaptureStatus::None;
}

} // namespace
} // namespace inv::kernels

TORCH_LIBRARY_IMPL(inv, CUDA, m) {
  m.impl("is_capturing", &inv::kernels::isCapturing);
}
