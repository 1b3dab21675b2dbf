# cmake --install: headers, the runtime, the tool, and a package for
# find_package(InvOpt). Included last, when all targets are there.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/InvOpt")

set(_targets inv_runtime)
# The exported name; and nobody calls a function of ours, so the linker is told
# to keep the library.
set_target_properties(inv_runtime PROPERTIES EXPORT_NAME runtime)
target_link_options(inv_runtime INTERFACE "LINKER:--no-as-needed")
if(TARGET inv_runtime_cuda)
  list(APPEND _targets inv_runtime_cuda)
endif()
if(TARGET inv-opt)
  list(APPEND _targets inv-opt)
endif()

file(RELATIVE_PATH _fromBin "/${CMAKE_INSTALL_BINDIR}" "/${CMAKE_INSTALL_LIBDIR}")
set_property(TARGET ${_targets} APPEND PROPERTY
  INSTALL_RPATH "$ORIGIN" "$ORIGIN/${_fromBin}" ${CMAKE_INSTALL_RPATH})
set_target_properties(${_targets} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)

install(TARGETS ${_targets} EXPORT InvOptTargets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY "${PROJECT_SOURCE_DIR}/runtime/include/inv"
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(EXPORT InvOptTargets NAMESPACE InvOpt:: DESTINATION ${_package})

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/InvOptConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/InvOptConfig.cmake" INSTALL_DESTINATION ${_package})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/InvOptConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/InvOptConfig.cmake"
  "${PROJECT_BINARY_DIR}/InvOptConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/TorchTargets.cmake" DESTINATION ${_package})
