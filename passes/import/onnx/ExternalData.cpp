#include "passes/import/onnx/ExternalData.h"

#include "passes/support/Error.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace inv::opt {

namespace fs = std::filesystem;

struct ExternalData::File {
  std::string location;
  int descriptor = -1;
  uint64_t size = 0;

  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor >= 0)
      ::close(descriptor);
  }
};

namespace {

[[noreturn]] void bad(const std::string& tensor, const std::string& message) {
  throw Error(ExitCode::BadInput,
              fmt::format("the external data of '{}' {}", tensor, message));
}

uint64_t number(const std::string& text, const std::string& tensor,
                const char* what) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end)
    bad(tensor, fmt::format("has the {} '{}', which is no number of bytes",
                            what, text));
  return value;
}

} // namespace

ExternalData::ExternalData(std::string modelPath)
    : modelPath_(std::move(modelPath)) {}
ExternalData::~ExternalData() = default;

ExternalData::File& ExternalData::open(const std::string& location,
                                       const std::string& tensor) {
  auto it = std::find_if(files_.begin(), files_.end(), [&](const auto& file) {
    return file->location == location;
  });
  if (it != files_.end())
    return **it;
  if (modelPath_.empty())
    bad(tensor, "cannot be found: the model comes from standard input");
  fs::path relative(location);
  if (location.empty() || location.find('\0') != std::string::npos)
    bad(tensor, "names no file");
  if (relative.is_absolute())
    bad(tensor, fmt::format("has an absolute path ('{}')", location));
  if (std::find(relative.begin(), relative.end(), "..") != relative.end())
    bad(tensor, fmt::format("leaves the model's folder ('{}')", location));

  // Folder by folder, each opened in the one before: a link that is put in the
  // way meanwhile is not followed either.
  std::vector<std::string> parts;
  for (const auto& part : relative)
    if (!part.empty() && part != ".")
      parts.push_back(part.string());
  fs::path folder = fs::path(modelPath_).parent_path();
  int at = ::open(folder.empty() ? "." : folder.c_str(),
                  O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (size_t i = 0; i < parts.size() && at >= 0; ++i) {
    int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    int next = ::openat(at, parts[i].c_str(),
                        flags | (i + 1 < parts.size() ? O_DIRECTORY : 0));
    int error = errno;
    ::close(at);
    at = next;
    errno = error;
  }
  if (at < 0) {
    if (errno == ELOOP || errno == ENOTDIR)
      bad(tensor, fmt::format("lies behind a symbolic link ('{}')", location));
    if (errno == ENXIO)
      bad(tensor, fmt::format("is no regular file ('{}')", location));
    bad(tensor, fmt::format("cannot be read ('{}': {})", location,
                            std::strerror(errno)));
  }
  auto file = std::make_unique<File>();
  file->location = location;
  file->descriptor = at;
  struct stat status {};
  if (::fstat(at, &status) != 0 || !S_ISREG(status.st_mode))
    bad(tensor, fmt::format("is no regular file ('{}')", location));
  file->size = static_cast<uint64_t>(status.st_size);
  files_.push_back(std::move(file));
  return *files_.back();
}

ExternalData::Span ExternalData::find(const ExternalPlace& place,
                                      const std::string& tensor,
                                      uint64_t size) {
  uint64_t offset =
      place.offset.empty() ? 0 : number(place.offset, tensor, "offset");
  uint64_t length =
      place.length.empty() ? size : number(place.length, tensor, "length");
  if (length != size)
    bad(tensor, fmt::format("has {} bytes, and the tensor {}", length, size));
  File& file = open(place.location, tensor);
  if (offset > file.size || size > file.size - offset)
    bad(tensor, fmt::format("ends beyond the file ('{}': {} bytes from {} on, "
                            "of {})",
                            place.location, size, offset, file.size));
  return {&file, offset};
}

void ExternalData::check(const ExternalPlace& place, const std::string& tensor,
                         uint64_t size) {
  find(place, tensor, size);
}

void ExternalData::read(const ExternalPlace& place, const std::string& tensor,
                        char* to, uint64_t size) {
  auto [file, offset] = find(place, tensor, size);
  while (size > 0) {
    ssize_t count = ::pread(file->descriptor, to,
                            std::min<uint64_t>(size, uint64_t{1} << 30),
                            static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      throw Error(
          ExitCode::Io,
          fmt::format("{}: cannot be read ({})", place.location,
                      count < 0 ? std::strerror(errno) : "it became shorter"));
    to += count;
    size -= static_cast<uint64_t>(count);
    offset += static_cast<uint64_t>(count);
  }
}

} // namespace inv::opt
