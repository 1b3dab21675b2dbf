// Reading a model: a TorchScript archive, printed IR or ONNX, told apart by
// content.
#pragma once

#include "passes/Model.h"

#include <string>
#include <unordered_map>
#include <vector>

namespace inv::opt {

enum class InputKind { Archive, IrText, Onnx, OnnxText };

struct Input;
struct ImportOptions;
/// Reads an ONNX model. A function that is handed in: the importer is a library
/// of its own (import/onnx), which this one does not depend on.
using OnnxReader = void (*)(Input&, const ImportOptions&);

struct ImportOptions {
  /// Methods to compile; empty: all of an IR text, "forward" of an archive.
  std::vector<std::string> methods;
  /// Paths of submodules whose calls stay calls (Options::invertible).
  std::vector<std::string> invertible;
  /// Initializers of an ONNX model that are buffers; "name*" is all that begin
  /// so.
  std::vector<std::string> buffers;
  OnnxReader onnx = nullptr; ///< null: ONNX is refused
};

/// What was read.
struct Input {
  InputKind kind = InputKind::Archive;
  bool isOnnx() const {
    return kind == InputKind::Onnx || kind == InputKind::OnnxText;
  }
  std::string path;  ///< "-" for standard input
  std::string bytes; ///< an IR text, or what came from standard input
  /// One for an archive or ONNX; one for each part of an IR text.
  std::vector<Model> models;
  /// The archive's extra files (name without "extra/", content).
  std::unordered_map<std::string, std::string> extraFiles;
  /// What the user should know about how it was read, one sentence each.
  std::vector<std::string> warnings;
};

/// Reads `path` ("-": standard input). Throws Error: Io where it cannot be
/// read, BadInput where it is no model or has no such method.
Input importInput(const std::string& path, const ImportOptions& options);

/// SHA-256 of the input's bytes, in hex.
std::string digestOf(const Input& input);

} // namespace inv::opt
