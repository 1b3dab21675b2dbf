// The version of the tool (that of the CMake project).
#pragma once

namespace inv::opt {

#ifdef INVOPT_VERSION
inline constexpr const char* kToolVersion = INVOPT_VERSION;
#else
inline constexpr const char* kToolVersion = "unknown";
#endif

} // namespace inv::opt
