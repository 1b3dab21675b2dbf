#include "passes/import/Import.h"

#include "passes/import/Archive.h"
#include "passes/import/InlineCalls.h"
#include "passes/import/IrText.h"
#include "passes/support/Error.h"
#include "passes/support/Sha256.h"

#include <algorithm>
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
  if (!isText(head))
    throw Error(ExitCode::BadInput,
                name + ": neither a TorchScript archive nor printed IR");
  input.kind = InputKind::IrText;
  if (path != "-") {
    auto file = openFile(path);
    input.bytes = slurp(file);
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
