#include "passes/support/AtomicFile.h"

#include "passes/support/Error.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace inv::opt {
namespace {

namespace fs = std::filesystem;

/// What permissions a file made by open(path, O_CREAT, 0666) would get.
mode_t defaultPermissions() {
  mode_t mask = umask(0);
  umask(mask);
  return 0666 & ~mask;
}

void syncFolder(const fs::path& folder) {
  int file = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0)
    return; // the rename stands all the same
  fsync(file);
  close(file);
}

} // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  std::error_code code;
  target_ = fs::is_symlink(path, code)
                ? fs::weakly_canonical(path, code).string()
                : path;
  if (target_.empty())
    target_ = path;
  if (fs::is_directory(target_, code))
    fail(EISDIR);
  if (fs::exists(target_, code) && !fs::is_regular_file(target_, code))
    throw Error(ExitCode::Io, path + ": cannot be written (no regular file)");
  fs::path folder = fs::path(target_).parent_path();
  if (folder.empty())
    folder = ".";
  std::string name = (folder / ".inv-opt-XXXXXX").string();
  std::vector<char> buffer(name.begin(), name.end());
  buffer.push_back('\0');
  file_ = mkostemp(buffer.data(), O_CLOEXEC);
  if (file_ < 0)
    fail(errno);
  temporary_ = buffer.data();
  struct stat old {};
  mode_t mode = stat(target_.c_str(), &old) == 0 ? old.st_mode & 0777
                                                 : defaultPermissions();
  if (fchmod(file_, mode) != 0)
    error_ = errno;
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0)
    close(file_);
  if (!temporary_.empty())
    unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t size) noexcept {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0 && error_ == 0) {
    ssize_t count = ::write(file_, bytes, size);
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0) {
      error_ = errno;
      return;
    }
    bytes += count;
    size -= static_cast<size_t>(count);
  }
}

void AtomicFile::commit() {
  if (error_ == 0 && fsync(file_) != 0)
    error_ = errno;
  if (close(file_) != 0 && error_ == 0)
    error_ = errno;
  file_ = -1;
  if (error_ == 0 && rename(temporary_.c_str(), target_.c_str()) != 0)
    error_ = errno;
  if (error_ != 0)
    fail(error_);
  temporary_.clear();
  fs::path folder = fs::path(target_).parent_path();
  syncFolder(folder.empty() ? "." : folder);
}

void AtomicFile::fail(int error) const {
  throw Error(ExitCode::Io, fmt::format("{}: cannot be written ({})", path_,
                                        std::strerror(error)));
}

} // namespace inv::opt
