# build/bin/inv-opt and build/lib/libinv_runtime*.so point at the last build of
# a preset that publishes (dev, release), so that scripts and people have one
# name for what they built last; a sanitizer's build never takes their place.
# Set at the end of each build of everything, also where nothing was out of date
# (dev after release, say); a build of a single target leaves the links alone.
option(INVOPT_PUBLISH "Point build/bin and build/lib at this build" OFF)

if(INVOPT_PUBLISH)
  set(_top "${PROJECT_SOURCE_DIR}/build")
  set(_all "")
  # The last five are what test/python needs.
  set(_published inv_runtime inv_runtime_cuda inv-opt inv-train inv-bench
    inv-onnx-batch
    inv_test_good inv_test_broken inv_test_clash inv_test_faults)
  foreach(_target IN LISTS _published)
    if(NOT TARGET ${_target})
      continue()
    endif()
    get_target_property(_type ${_target} TYPE)
    if(_type STREQUAL "EXECUTABLE")
      set(_folder "${_top}/bin")
    else()
      set(_folder "${_top}/lib")
    endif()
    list(APPEND _all
      COMMAND ${CMAKE_COMMAND} -E make_directory "${_folder}"
      COMMAND ${CMAKE_COMMAND} -E create_symlink
        "$<TARGET_FILE:${_target}>" "${_folder}/$<TARGET_FILE_NAME:${_target}>")
  endforeach()
  add_custom_target(current-links ALL ${_all} VERBATIM
    COMMENT "build/bin and build/lib point at this build")
  foreach(_target IN LISTS _published)
    if(TARGET ${_target})
      add_dependencies(current-links ${_target})
    endif()
  endforeach()
endif()
