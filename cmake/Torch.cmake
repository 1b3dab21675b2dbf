# Finds LibTorch: INVOPT_TORCH_DIR as an option or in the environment, else the
# wheel in .deps. Then makes the targets of TorchTargets.cmake from it.
#
# INVOPT_TORCH_DIR is the folder that holds include/ATen and
# lib/libtorch_cpu.so (a LibTorch download, or site-packages/torch of a wheel).

set(INVOPT_TORCH_DIR "$ENV{INVOPT_TORCH_DIR}" CACHE PATH
    "Folder of LibTorch (holds include/ and lib/); empty: the one in .deps")

# Not cached when found: .deps may point at another environment tomorrow.
if(NOT INVOPT_TORCH_DIR)
  file(GLOB _candidates
       "${PROJECT_SOURCE_DIR}/.deps/lib/python3*/site-packages/torch")
  if(_candidates)
    list(GET _candidates 0 _candidate)
    get_filename_component(INVOPT_TORCH_DIR "${_candidate}" REALPATH)
    set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY
      CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/.deps/complete")
  endif()
endif()
if(NOT EXISTS "${INVOPT_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR
    "LibTorch not found (INVOPT_TORCH_DIR='${INVOPT_TORCH_DIR}'). "
    "Run scripts/setup, or pass -DINVOPT_TORCH_DIR=<folder with lib/libtorch_cpu.so>.")
endif()

include(TorchTargets)
message(STATUS "LibTorch ${INVOPT_TORCH_VERSION}: ${INVOPT_TORCH_DIR}")
if(INVOPT_TORCH_VERSION VERSION_LESS 2.11 OR
   INVOPT_TORCH_VERSION VERSION_GREATER_EQUAL 2.12)
  message(WARNING "inv-opt is made for LibTorch 2.11; this is "
    "${INVOPT_TORCH_VERSION}, with which nothing was tried.")
endif()

# CUDA: LibTorch has it, nvcc is there, and so is the toolkit. Sets
# INVOPT_HAVE_CUDA, and INVOPT_NO_CUDA_REASON where it is OFF.
set(INVOPT_HAVE_CUDA OFF)
if(INVOPT_CUDA STREQUAL "OFF")
  set(INVOPT_NO_CUDA_REASON "INVOPT_CUDA is OFF")
elseif(NOT EXISTS "${INVOPT_TORCH_DIR}/lib/libtorch_cuda.so")
  set(INVOPT_NO_CUDA_REASON "this LibTorch has no CUDA")
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(INVOPT_NO_CUDA_REASON "nvcc was not found")
  else()
    find_package(CUDAToolkit QUIET)
    if(CUDAToolkit_FOUND)
      set(INVOPT_HAVE_CUDA ON)
    else()
      set(INVOPT_NO_CUDA_REASON "there is an nvcc, but no CUDA toolkit")
    endif()
  endif()
endif()
if(INVOPT_HAVE_CUDA AND NOT TARGET InvOpt::torch_cuda)
  add_library(InvOpt::c10_cuda SHARED IMPORTED)
  set_target_properties(InvOpt::c10_cuda PROPERTIES
    IMPORTED_LOCATION "${INVOPT_TORCH_DIR}/lib/libc10_cuda.so")
  add_library(InvOpt::torch_cuda SHARED IMPORTED)
  set_target_properties(InvOpt::torch_cuda PROPERTIES
    IMPORTED_LOCATION "${INVOPT_TORCH_DIR}/lib/libtorch_cuda.so"
    INTERFACE_LINK_LIBRARIES
      "InvOpt::torch_cpu;InvOpt::c10_cuda;CUDA::cudart")
endif()

# LibTorch's wheel loads libraries of the toolkit (libtorch_cpu two,
# libtorch_cuda ten). Its own search path covers the wheels that bring them;
# for a toolkit outside the loader's path, the link needs -rpath-link, and a
# program that is run needs the folders as RPATH: RUNPATH, the newer tag, is
# not searched for what a library needs.
set(_folders "")
foreach(_folder IN ITEMS "${CUDAToolkit_LIBRARY_DIR}" "$ENV{CUDA_HOME}/lib64"
        /usr/local/cuda/lib64)
  if(EXISTS "${_folder}/libcudart.so")
    get_filename_component(_folder "${_folder}" REALPATH)
    list(APPEND _folders "${_folder}")
  endif()
endforeach()
list(REMOVE_DUPLICATES _folders)
if(_folders)
  add_link_options("LINKER:--disable-new-dtags")
  list(APPEND CMAKE_BUILD_RPATH ${_folders})
  list(APPEND CMAKE_INSTALL_RPATH ${_folders})
  foreach(_folder IN LISTS _folders)
    add_link_options("LINKER:-rpath-link,${_folder}")
  endforeach()
endif()
