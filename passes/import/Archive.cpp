#include "passes/import/Archive.h"

#include "inv/Abi.h"
#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"

#include <sstream>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <torch/csrc/jit/serialization/import.h>
#include <zip.h>

namespace inv::opt {
namespace {

[[noreturn]] void bad(const Input& input, const std::string& message) {
  throw Error(ExitCode::BadInput,
              fmt::format("{}: {}",
                          input.path == "-" ? "standard input" : input.path,
                          message));
}

std::string zipError(int code) {
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

/// An open archive of libzip's.
class ZipFile {
public:
  explicit ZipFile(const Input& input) : input_(input) {
    int code = 0;
    if (input.path != "-") {
      zip_ = zip_open(input.path.c_str(), ZIP_RDONLY, &code);
    } else {
      zip_error_t error;
      zip_error_init(&error);
      zip_source_t* source = zip_source_buffer_create(
          input.bytes.data(), input.bytes.size(), 0, &error);
      if (source != nullptr)
        zip_ = zip_open_from_source(source, ZIP_RDONLY, &error);
      if (zip_ == nullptr && source != nullptr)
        zip_source_free(source);
      code = zip_error_code_zip(&error);
      zip_error_fini(&error);
    }
    if (zip_ == nullptr)
      bad(input, fmt::format("not a readable archive, perhaps truncated ({})",
                             zipError(code)));
  }
  ~ZipFile() { zip_discard(zip_); }
  ZipFile(const ZipFile&) = delete;
  ZipFile& operator=(const ZipFile&) = delete;

  zip_int64_t size() const { return zip_get_num_entries(zip_, 0); }
  std::string name(zip_int64_t index) const {
    const char* text = zip_get_name(zip_, static_cast<zip_uint64_t>(index), 0);
    return text != nullptr ? text : "";
  }
  /// Reads an entry to its end, which verifies its checksum; hands each piece
  /// to `sink`.
  template <typename Sink> void read(zip_int64_t index, Sink sink) const {
    zip_file_t* file =
        zip_fopen_index(zip_, static_cast<zip_uint64_t>(index), 0);
    if (file == nullptr)
      bad(input_, fmt::format("the archive is damaged: '{}': {}", name(index),
                              zip_strerror(zip_)));
    std::vector<char> buffer(1 << 18);
    zip_int64_t count = 0;
    while ((count = zip_fread(file, buffer.data(), buffer.size())) > 0)
      sink(buffer.data(), static_cast<size_t>(count));
    std::string error = count < 0 ? zip_file_strerror(file) : "";
    zip_fclose(file);
    if (count < 0)
      bad(input_,
          fmt::format("the archive is damaged: '{}': {}", name(index), error));
  }

private:
  const Input& input_;
  zip_t* zip_ = nullptr;
};

/// Checks what LibTorch needs to find, and reads the extra files.
void checkArchive(Input& input) {
  ZipFile zip(input);
  bool hasData = false, hasCode = false, hasConstants = false;
  for (zip_int64_t i = 0; i < zip.size(); ++i) {
    std::string name = zip.name(i);
    size_t slash = name.find('/'); // the archive's own top folder
    std::string inner =
        slash == std::string::npos ? "" : name.substr(slash + 1);
    hasData |= inner == "data.pkl";
    hasConstants |= inner == "constants.pkl";
    hasCode |= inner.rfind("code/", 0) == 0;
    if (inner.rfind("extra/", 0) == 0) {
      std::string& content = input.extraFiles[inner.substr(6)];
      zip.read(i, [&](const char* data, size_t size) {
        content.append(data, size);
      });
    } else {
      zip.read(i, [](const char*, size_t) {});
    }
  }
  if (hasData && !hasCode)
    bad(input, "holds weights but no code: it was written by torch.save; "
               "export the model with torch.jit.script or torch.jit.trace");
  if (!hasData || !hasConstants)
    bad(input, "a zip file, but not a TorchScript archive");
}

/// What went wrong in LibTorch's words, without its stack trace.
std::string firstSentences(const std::exception& error) {
  std::string text = error.what();
  if (const auto* torchError = dynamic_cast<const c10::Error*>(&error))
    text = torchError->what_without_backtrace();
  return std::string(trim(text));
}

/// LibTorch's message, made into what the user can do about it.
[[noreturn]] void explain(const Input& input, const std::exception& error) {
  std::string text = firstSentences(error);
  constexpr std::string_view kUnknown = "Unknown builtin op: ";
  size_t at = text.find(kUnknown);
  if (at != std::string::npos) {
    std::string op = text.substr(at + kUnknown.size());
    op = op.substr(0, op.find_first_of(". \n(", op.find("::")));
    if (op.rfind(abi::kNeedsPrefix, 0) == 0)
      bad(input, fmt::format("was rewritten for another version of the runtime "
                             "({}); this is version {}",
                             op, abi::kVersion));
    bad(input, fmt::format("unknown operator {}; name the library that has it "
                           "with --load-library=LIB.so",
                           op));
  }
  if (text.find("__torch__.torch.classes") != std::string::npos ||
      text.find("torch::class_") != std::string::npos)
    bad(input, "uses a custom class that is not registered; name the library "
               "that has it with --load-library=LIB.so: " +
                   text.substr(0, text.find('\n')));
  bad(input, "cannot be loaded: " + text.substr(0, text.find('\n')));
}

torch::jit::Module load(const Input& input, std::optional<c10::Device> device) {
  if (input.path != "-")
    return torch::jit::load(input.path, device);
  std::istringstream stream(input.bytes);
  return torch::jit::load(stream, device);
}

} // namespace

void loadArchive(Input& input) {
  checkArchive(input);
  Model model;
  try {
    model.module = load(input, std::nullopt);
  } catch (const std::exception& error) {
    // This tool has no CUDA: weights saved there are read to the CPU.
    if (std::string(error.what()).find("CUDA") == std::string::npos)
      explain(input, error);
    try {
      model.module = load(input, c10::Device(c10::kCPU));
      input.warnings.emplace_back(
          "the weights were saved on a CUDA device; they are on the CPU in the "
          "output (load it with a map_location)");
    } catch (const std::exception& second) {
      explain(input, second);
    }
  }
  input.models.push_back(std::move(model));
}

} // namespace inv::opt
