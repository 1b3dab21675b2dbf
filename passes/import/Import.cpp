#include "passes/import/Import.h"

#include "passes/import/Archive.h"
#include "passes/import/InlineCalls.h"
#include "passes/import/IrText.h"
#include "passes/support/Error.h"
#include "passes/support/Sha256.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include <fmt/format.h>

namespace inv::opt {
namespace {

std::string slurp(std::istream& in) {
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::ifstream openFile(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    throw Error(ExitCode::BadInput, path + ": is a directory");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw Error(ExitCode::Io, fmt::format("{}: cannot be read ({})", path,
                                          std::strerror(errno)));
  return file;
}

/// Whether the text could be IR: it has no control characters but white space.
bool isText(std::string_view head) {
  return std::none_of(head.begin(), head.end(), [](unsigned char c) {
    return c < 0x20 && c != '\n' && c != '\r' && c != '\t' && c != '\f';
  });
}

/// Whether a text is a model in ONNX's own syntax, which begins with `<`, and
/// not a graph of TorchScript. Both have comments from `#` on.
bool isOnnxText(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (text[at] == '#')
      at = std::min(text.find('\n', at), text.size());
    else if (std::isspace(static_cast<unsigned char>(text[at])) != 0)
      ++at;
    else
      return text[at] == '<';
  }
  return false;
}

/// A protobuf message that may be an ONNX model: its first fields are the
/// version of the format or names, in this order as all writers write them.
bool mayBeOnnx(std::string_view head) {
  constexpr std::string_view kFirstFields = "\x08\x12\x1a\x22\x28\x32\x3a\x42";
  return kFirstFields.find(head.front()) != std::string_view::npos;
}

void readOnnx(Input& input, const ImportOptions& options, InputKind kind) {
  if (options.onnx == nullptr)
    throw Error(ExitCode::BadInput,
                input.path + ": is ONNX, which is not read here");
  input.kind = kind;
  options.onnx(input, options);
}

/// The methods of an archive that are compiled, as inlined copies.
void chooseMethods(Input& input, const ImportOptions& options) {
  Model& model = input.models.front();
  auto names = options.methods;
  if (names.empty())
    names.emplace_back("forward");
  for (const auto& name : names) {
    if (model.module.type()->findMethod(name) == nullptr) {
      std::string known;
      for (const auto& method : model.module.get_methods())
        known += (known.empty() ? "" : ", ") + method.name();
      throw Error(ExitCode::BadInput,
                  fmt::format("{}: no method '{}' (it has: {})", input.path,
                              name, known.empty() ? "none" : known));
    }
    Method method;
    method.name = name;
    method.graph = inlinedCopy(model.module, name, options.invertible);
    model.methods.push_back(std::move(method));
  }
}

} // namespace

Input importInput(const std::string& path, const ImportOptions& options) {
  Input input;
  input.path = path;
  std::string head;
  if (path == "-") {
    input.bytes = slurp(std::cin);
    head = input.bytes.substr(0, 4096);
  } else {
    auto file = openFile(path);
    head.resize(4096);
    file.read(head.data(), static_cast<std::streamsize>(head.size()));
    head.resize(static_cast<size_t>(file.gcount()));
  }
  std::string name = path == "-" ? "standard input" : path;
  if (head.empty())
    throw Error(ExitCode::BadInput, name + ": is empty");
  if (head.rfind("PK\x03\x04", 0) == 0) {
    input.kind = InputKind::Archive;
    loadArchive(input);
    chooseMethods(input, options);
    return input;
  }
  if (!isText(head)) {
    if (!mayBeOnnx(head))
      throw Error(
          ExitCode::BadInput,
          name + ": neither a TorchScript archive nor printed IR nor ONNX");
    readOnnx(input, options, InputKind::Onnx);
    return input;
  }
  input.kind = InputKind::IrText;
  if (path != "-") {
    auto file = openFile(path);
    input.bytes = slurp(file);
  }
  if (isOnnxText(input.bytes)) {
    readOnnx(input, options, InputKind::OnnxText);
    return input;
  }
  input.models =
      parseIrText(input.bytes, path == "-" ? "<stdin>" : path, options);
  return input;
}

std::string digestOf(const Input& input) {
  Sha256 digest;
  if (input.path == "-" || !input.bytes.empty()) {
    digest.update(input.bytes.data(), input.bytes.size());
    return digest.hex();
  }
  auto file = openFile(input.path);
  std::vector<char> buffer(1 << 18);
  while (
      file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) ||
      file.gcount() > 0)
    digest.update(buffer.data(), static_cast<size_t>(file.gcount()));
  return digest.hex();
}

} // namespace inv::opt
