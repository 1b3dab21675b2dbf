// Errors that end a run of the tool, with the exit code they end it with.
#pragma once

#include <stdexcept>
#include <string>

namespace inv::opt {

/// Exit codes of inv-opt (docs/formats.md).
enum class ExitCode {
  Done = 0,
  CheckFailed = 1, ///< a verification or a --require-* check failed
  BadInput = 2,    ///< usage, or an input that cannot be used
  Contained = 3,   ///< crash, limit or timeout; nothing was written
  Io = 4,          ///< reading or writing failed; nothing was changed
};

/// A user-facing failure: one clear message that names the node and the
/// model's source line where there are such. Never used for our own bugs
/// (those are asserts).
class Error : public std::runtime_error {
public:
  Error(ExitCode code, const std::string& message)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

private:
  ExitCode code_;
};

} // namespace inv::opt
