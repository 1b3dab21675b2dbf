// Weights that lie in files beside the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace inv::opt {

/// Where a tensor's bytes lie, as the model says it.
struct ExternalPlace {
  std::string location; ///< relative to the model's folder
  std::string offset;   ///< decimal, or empty: 0
  std::string length;   ///< decimal, or empty: up to the end of what is needed
};

/// Files in one folder; each is opened once. Only what lies in the folder
/// itself, or below it, is read: no absolute path, no "..", no symbolic link on
/// the way, nothing but regular files. Throws Error (BadInput) for a place that
/// is not such, Io where reading fails.
class ExternalData {
public:
  /// The folder of the model; empty: there is none (standard input).
  explicit ExternalData(std::string modelPath);
  ~ExternalData();
  ExternalData(const ExternalData&) = delete;
  ExternalData& operator=(const ExternalData&) = delete;

  /// Whether `size` bytes lie there; an error where not. `tensor` names the
  /// tensor in messages.
  void check(const ExternalPlace& place, const std::string& tensor,
             uint64_t size);
  /// Reads them to `to`.
  void read(const ExternalPlace& place, const std::string& tensor, char* to,
            uint64_t size);

private:
  struct File;
  struct Span {
    File* file;
    uint64_t offset;
  };
  File& open(const std::string& location, const std::string& tensor);
  Span find(const ExternalPlace& place, const std::string& tensor,
            uint64_t size);

  std::string modelPath_;
  std::vector<std::unique_ptr<File>> files_;
};

} // namespace inv::opt
