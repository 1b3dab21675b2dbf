# ccache where there is one and no other launcher was asked for. Paths are made
# relative to the checkout, so that a second clone hits what the first one
# built. Sets INVOPT_HAVE_CCACHE.
find_program(INVOPT_CCACHE ccache)
mark_as_advanced(INVOPT_CCACHE)
set(INVOPT_HAVE_CCACHE OFF)
if(INVOPT_CCACHE OR CMAKE_CXX_COMPILER_LAUNCHER)
  set(INVOPT_HAVE_CCACHE ON)
endif()
if(INVOPT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  if(DEFINED ENV{CCACHE_DIR})
    set(_folder "$ENV{CCACHE_DIR}")
  elseif(DEFINED ENV{INVOPT_CACHE})
    set(_folder "$ENV{INVOPT_CACHE}/ccache")
  else()
    set(_folder "$ENV{HOME}/.cache/inv-opt/ccache")
  endif()
  set(_launcher "${CMAKE_COMMAND}" -E env "CCACHE_DIR=${_folder}"
    "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}" CCACHE_NOHASHDIR=1
    "${INVOPT_CCACHE}")
  set(CMAKE_CXX_COMPILER_LAUNCHER ${_launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${_launcher})
endif()
