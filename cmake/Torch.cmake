# Imported targets for LibTorch, made by hand in our own namespace.
#
# find_package(Torch) is not used: it drags in Caffe2's CUDA detection, fails
# with old CMakes, and a project that uses us may call it itself.
#
#   InvOpt::torch_cpu    libtorch_cpu + libc10 and the headers
#   InvOpt::torch_cuda   adds libtorch_cuda + libc10_cuda + the CUDA runtime;
#                        exists only where LibTorch and a toolkit have it
#
# INVOPT_TORCH_DIR: the folder that holds lib/libtorch_cpu.so and
# include/ATen (a LibTorch download, or site-packages/torch of a wheel).

set(INVOPT_TORCH_DIR "$ENV{INVOPT_TORCH_DIR}" CACHE PATH
    "Folder of LibTorch (holds include/ and lib/)")
if(NOT INVOPT_TORCH_DIR)
  file(GLOB _candidates
       "${CMAKE_CURRENT_LIST_DIR}/../.deps/lib/python3*/site-packages/torch")
  if(_candidates)
    list(GET _candidates 0 INVOPT_TORCH_DIR)
  endif()
endif()
if(NOT EXISTS "${INVOPT_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR
    "LibTorch not found (INVOPT_TORCH_DIR='${INVOPT_TORCH_DIR}'). "
    "Run scripts/setup, or pass -DINVOPT_TORCH_DIR=<folder with lib/libtorch_cpu.so>.")
endif()

if(NOT TARGET InvOpt::torch_cpu)
  add_library(InvOpt::c10 SHARED IMPORTED)
  set_target_properties(InvOpt::c10 PROPERTIES
    IMPORTED_LOCATION "${INVOPT_TORCH_DIR}/lib/libc10.so")
  add_library(InvOpt::torch_cpu SHARED IMPORTED)
  set_target_properties(InvOpt::torch_cpu PROPERTIES
    IMPORTED_LOCATION "${INVOPT_TORCH_DIR}/lib/libtorch_cpu.so"
    INTERFACE_INCLUDE_DIRECTORIES
      "${INVOPT_TORCH_DIR}/include;${INVOPT_TORCH_DIR}/include/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES InvOpt::c10)
endif()

set(INVOPT_HAVE_CUDA OFF)
if(EXISTS "${INVOPT_TORCH_DIR}/lib/libtorch_cuda.so")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    find_package(CUDAToolkit QUIET)
    if(CUDAToolkit_FOUND)
      set(INVOPT_HAVE_CUDA ON)
      if(NOT TARGET InvOpt::torch_cuda)
        add_library(InvOpt::c10_cuda SHARED IMPORTED)
        set_target_properties(InvOpt::c10_cuda PROPERTIES
          IMPORTED_LOCATION "${INVOPT_TORCH_DIR}/lib/libc10_cuda.so")
        add_library(InvOpt::torch_cuda SHARED IMPORTED)
        set_target_properties(InvOpt::torch_cuda PROPERTIES
          IMPORTED_LOCATION "${INVOPT_TORCH_DIR}/lib/libtorch_cuda.so"
          INTERFACE_LINK_LIBRARIES
            "InvOpt::torch_cpu;InvOpt::c10_cuda;CUDA::cudart")
      endif()
    endif()
  endif()
endif()
