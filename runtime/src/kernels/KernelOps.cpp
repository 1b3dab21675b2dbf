// The kernels as operators: schemas, the CPU implementation, and the way to
// the library with the CUDA kernels.
#include "kernels/Kernels.h"
#include "kernels/Stubs.h"

#include <ATen/TensorIterator.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <dlfcn.h>

#include <mutex>
#include <string>

namespace inv::kernels {

DEFINE_DISPATCH(scaledAddStub);
DEFINE_DISPATCH(scaledAddInverseStub);

} // namespace inv::kernels

#ifdef HAVE_AVX512_CPU_DEFINITION
// No object of its own: such machines take the AVX2 one. (The macro specializes
// a template of at::native, which has to be done there.)
namespace at::native {
using inv::kernels::scaledAddInverseStub_DECLARE_DISPATCH_type;
using inv::kernels::scaledAddStub_DECLARE_DISPATCH_type;
REGISTER_ARCH_DISPATCH(scaledAddStub, AVX512, nullptr)
REGISTER_ARCH_DISPATCH(scaledAddInverseStub, AVX512, nullptr)
} // namespace at::native
#endif

namespace inv::kernels {
namespace {

constexpr const char* kCudaLibrary = "libinv_runtime_cuda.so";

at::Tensor cpuOut(Kernel kernel, const at::Tensor& a, const at::Tensor& f,
                  double xScale, double fScale) {
  at::Tensor out;
  auto iter = at::TensorIteratorConfig()
                  .add_output(out)
                  .add_const_input(a)
                  .add_const_input(f)
                  .build();
  kernel(iter, xScale, fScale);
  return iter.output();
}

void cpuInto(Kernel kernel, const at::Tensor& out, const at::Tensor& a,
             const at::Tensor& f, double xScale, double fScale) {
  auto iter = at::TensorIteratorConfig()
                  .add_output(out)
                  .add_const_input(a)
                  .add_const_input(f)
                  .resize_outputs(false)
                  .build();
  kernel(iter, xScale, fScale);
}

void addCpu(at::TensorIteratorBase& iter, double xScale, double fScale) {
  scaledAddStub(at::kCPU, iter, xScale, fScale);
}
void inverseCpu(at::TensorIteratorBase& iter, double xScale, double fScale) {
  scaledAddInverseStub(at::kCPU, iter, xScale, fScale);
}

at::Tensor scaledAddCpu(const at::Tensor& x, const at::Tensor& f, double xScale,
                        double fScale) {
  return cpuOut(&addCpu, x, f, xScale, fScale);
}
at::Tensor& scaledAddIntoCpu(at::Tensor& f, const at::Tensor& x, double xScale,
                             double fScale) {
  cpuInto(&addCpu, f, x, f, xScale, fScale);
  return f;
}
at::Tensor scaledAddInverseCpu(const at::Tensor& y, const at::Tensor& f,
                               double xScale, double fScale) {
  return cpuOut(&inverseCpu, y, f, xScale, fScale);
}
at::Tensor& scaledAddInverseIntoCpu(at::Tensor& y, const at::Tensor& f,
                                    double xScale, double fScale) {
  cpuInto(&inverseCpu, y, y, f, xScale, fScale);
  return y;
}

/// Loads the CUDA kernels, which lie beside this library. Without them CUDA
/// tensors go through ATen's operators: slower, the same bits.
void loadCuda() {
  static std::once_flag once;
  std::call_once(once, [] {
    Dl_info self;
    if (!dladdr(reinterpret_cast<void*>(&loadCuda), &self) || !self.dli_fname)
      return;
    std::string path(self.dli_fname);
    path.resize(path.find_last_of('/') + 1); // npos + 1: no folder
    dlopen((path + kCudaLibrary).c_str(), RTLD_NOW | RTLD_LOCAL);
  });
}

/// A process that already has LibTorch's CUDA part gets ours at once, so that
/// the operators can be called directly.
[[maybe_unused]] const bool loadedWithTorchCuda = [] {
  if (void* handle = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY)) {
    dlclose(handle);
    loadCuda();
  }
  return true;
}();

c10::OperatorHandle find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

} // namespace

bool fit(const at::Tensor& x, const at::Tensor& f) {
  if (x.scalar_type() != f.scalar_type() || x.device() != f.device() ||
      x.layout() != at::kStrided || f.layout() != at::kStrided ||
      !x.has_storage() || !f.has_storage())
    return false;
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble &&
      x.scalar_type() != at::kHalf && x.scalar_type() != at::kBFloat16)
    return false;
  if (x.is_cpu())
    return true;
  if (!x.is_cuda())
    return false;
  loadCuda();
  static const auto op = find("inv::scaled_add");
  return op.hasKernelForDispatchKey(c10::DispatchKey::CUDA);
}

bool isCapturing(const at::Tensor& t) {
  loadCuda();
  static const auto op =
      find("inv::is_capturing").typed<bool(const at::Tensor&)>();
  // Without the library nobody knows. A capture then ends in an error of
  // PyTorch's, since the generator is asked.
  if (!op.hasKernelForDispatchKey(c10::DispatchKey::CUDA))
    return false;
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(t);
}

// Below autograd: history is the business of the steps.
at::Tensor scaledAdd(const at::Tensor& x, const at::Tensor& f, double xScale,
                     double fScale) {
  static const auto op =
      find("inv::scaled_add")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, double,
                            double)>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, f, xScale, fScale);
}

void scaledAddInto(const at::Tensor& x, const at::Tensor& f, double xScale,
                   double fScale) {
  static const auto op =
      find("inv::scaled_add_into_")
          .typed<at::Tensor&(at::Tensor&, const at::Tensor&, double, double)>();
  at::AutoDispatchBelowADInplaceOrView below;
  at::Tensor out = f;
  op.call(out, x, xScale, fScale);
}

at::Tensor scaledAddInverse(const at::Tensor& y, const at::Tensor& f,
                            double xScale, double fScale) {
  static const auto op =
      find("inv::scaled_add_inverse")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, double,
                            double)>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(y, f, xScale, fScale);
}

void scaledAddInverseInto(const at::Tensor& y, const at::Tensor& f,
                          double xScale, double fScale) {
  static const auto op =
      find("inv::scaled_add_inverse_")
          .typed<at::Tensor&(at::Tensor&, const at::Tensor&, double, double)>();
  at::AutoDispatchBelowADInplaceOrView below;
  at::Tensor out = y;
  op.call(out, f, xScale, fScale);
}

} // namespace inv::kernels

TORCH_LIBRARY_FRAGMENT(inv, m) {
  m.def("is_capturing(Tensor t) -> bool");
  m.def("scaled_add(Tensor x, Tensor f, float x_scale, float f_scale) "
        "-> Tensor");
  m.def("scaled_add_into_(Tensor(a!) f, Tensor x, float x_scale, "
        "float f_scale) -> Tensor(a!)");
  m.def("scaled_add_inverse(Tensor y, Tensor f, float x_scale, "
        "float f_scale) -> Tensor");
  m.def("scaled_add_inverse_(Tensor(a!) y, Tensor f, float x_scale, "
        "float f_scale) -> Tensor(a!)");
}

TORCH_LIBRARY_IMPL(inv, CPU, m) {
  m.impl("scaled_add", &inv::kernels::scaledAddCpu);
  m.impl("scaled_add_into_", &inv::kernels::scaledAddIntoCpu);
  m.impl("scaled_add_inverse", &inv::kernels::scaledAddInverseCpu);
  m.impl("scaled_add_inverse_", &inv::kernels::scaledAddInverseIntoCpu);
}
