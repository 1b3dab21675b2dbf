# Imported targets for the LibTorch in INVOPT_TORCH_DIR, made by hand in our own
# namespace; read by our build and by projects that use the installed package.
#
# find_package(Torch) is not used: it drags in Caffe2's CUDA detection, fails
# with old CMakes, and a project that uses us may call it itself.
#
#   InvOpt::torch_cpu     libtorch_cpu + libc10 and the headers
#   INVOPT_TORCH_VERSION  for example 2.11.0

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

set(INVOPT_TORCH_VERSION unknown)
foreach(_header IN ITEMS torch/headeronly/version.h
        torch/csrc/api/include/torch/version.h)
  set(_header "${INVOPT_TORCH_DIR}/include/${_header}")
  if(INVOPT_TORCH_VERSION STREQUAL "unknown" AND EXISTS "${_header}")
    file(STRINGS "${_header}" _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
    list(LENGTH _numbers _count)
    if(_count EQUAL 3)
      list(JOIN _numbers "." INVOPT_TORCH_VERSION)
    endif()
  endif()
endforeach()
