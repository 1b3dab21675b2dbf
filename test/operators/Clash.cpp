// Registers an operator that LibTorch has: its initialisation throws.
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(aten, library) {
  library.def("relu(Tensor self) -> Tensor");
}
