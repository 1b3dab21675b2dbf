# ONNX's C++ library and protobuf, both static: InvOpt::onnx. scripts/setup
# builds the former and leaves a link to it, .onnx.
set(INVOPT_ONNX_DIR "$ENV{INVOPT_ONNX_DIR}" CACHE PATH
    "Prefix of ONNX (holds include/ and lib/); empty: the one in .onnx")

# Not cached when found: .onnx may point at another build tomorrow.
set(_onnx "${INVOPT_ONNX_DIR}")
if(NOT _onnx)
  get_filename_component(_onnx "${PROJECT_SOURCE_DIR}/.onnx" REALPATH)
endif()
if(NOT EXISTS "${_onnx}/lib/libonnx.a")
  message(FATAL_ERROR "ONNX not found (INVOPT_ONNX_DIR='${INVOPT_ONNX_DIR}'). "
    "Run scripts/setup, or pass -DINVOPT_ONNX_DIR=<prefix with lib/libonnx.a>.")
endif()
set(Protobuf_USE_STATIC_LIBS ON)
find_package(Protobuf REQUIRED MODULE)

# LibTorch's folder of headers holds protobuf's, of another version; so ours get
# a folder of their own, which comes before it (INVOPT_ONNX_INCLUDES).
set(_headers "${PROJECT_BINARY_DIR}/protobuf-headers")
file(MAKE_DIRECTORY "${_headers}")
file(CREATE_LINK "${Protobuf_INCLUDE_DIR}/google" "${_headers}/google" SYMBOLIC)
set(INVOPT_ONNX_INCLUDES "${_onnx}/include" "${_headers}")

if(NOT TARGET InvOpt::onnx)
  add_library(InvOpt::onnx STATIC IMPORTED)
  set_target_properties(InvOpt::onnx PROPERTIES
    IMPORTED_LOCATION "${_onnx}/lib/libonnx.a"
    INTERFACE_COMPILE_DEFINITIONS "ONNX_NAMESPACE=onnx;ONNX_ML=1"
    INTERFACE_LINK_LIBRARIES
      "${_onnx}/lib/libonnx_proto.a;${Protobuf_LIBRARIES};${CMAKE_DL_LIBS}")
endif()
