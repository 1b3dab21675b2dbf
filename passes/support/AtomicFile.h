// Replacing a file in one step.
#pragma once

#include <cstddef>
#include <string>

namespace inv::opt {

/// A file that is written under a temporary name in the folder of `path` and
/// takes that name in commit(), after it was flushed to disk. Destroyed without
/// commit(), it leaves nothing behind and the old file as it was. A symbolic
/// link is followed; the permissions of an existing file are kept.
class AtomicFile {
public:
  /// Throws Error (Io) where the folder cannot be written.
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends. Never throws, so that it can be called from LibTorch's writer
  /// (which aborts the process when its callback does): an error is kept, what
  /// follows is dropped, and commit() reports it.
  void write(const void* data, size_t size) noexcept;
  /// Flushes, renames; throws Error (Io) for the first error there was.
  void commit();

private:
  [[noreturn]] void fail(int error) const;
  std::string path_;      ///< as the user wrote it, for messages
  std::string target_;    ///< with links resolved
  std::string temporary_; ///< empty once committed
  int file_ = -1;
  int error_ = 0; ///< errno of the first failure
};

} // namespace inv::opt
