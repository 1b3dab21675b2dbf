#include "passes/export/ArchiveWriter.h"

#include "inv/Abi.h"
#include "passes/export/ReadableOrder.h"
#include "passes/support/AtomicFile.h"
#include "passes/support/Error.h"
#include "passes/support/Holds.h"
#include "passes/support/Symbols.h"
#include "passes/support/Version.h"
#include "passes/support/Written.h"

#include <algorithm>
#include <fstream>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/serialization/export.h>

namespace inv::opt {
namespace {

using namespace torch::jit;
using Json = nlohmann::ordered_json;

void collectOps(const Block& block, std::set<std::string>& ops) {
  for (const Node* node : block.nodes()) {
    if (node->kind().ns() == sym::coupling().ns())
      ops.insert(node->kind().toQualString());
    for (const Block* inner : node->blocks())
      collectOps(*inner, ops);
  }
}

Json describeStep(const StepReport& step) {
  Json json = {{"kind", step.kind},
               {"module", step.module},
               {"source", step.source},
               {"values_dropped", step.valuesDropped}};
  json["bytes_dropped"] =
      step.bytesDropped < 0 ? Json(nullptr) : Json(step.bytesDropped);
  return json;
}

void copyInput(AtomicFile& file, const Input& input) {
  if (input.path == "-") {
    file.write(input.bytes.data(), input.bytes.size());
    return;
  }
  std::ifstream source(input.path, std::ios::binary);
  std::vector<char> buffer(1 << 18);
  while (
      source.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) ||
      source.gcount() > 0)
    file.write(buffer.data(), static_cast<size_t>(source.gcount()));
  if (!source.eof())
    throw Error(ExitCode::Io, input.path + ": cannot be read");
}

} // namespace

void installMethods(Model& model) {
  auto type = model.module.type();
  auto cu = type->compilation_unit();
  for (auto& method : model.methods) {
    if (!method.changed)
      continue;
    Function& old = type->getMethod(method.name);
    c10::QualifiedName name = old.qualname();
    c10::FunctionSchema schema = old.getSchema();
    type->unsafeRemoveMethod(method.name);
    cu->unsafeRemoveMethod(name);
    auto graph = method.graph->copy();
    lowerWritten(graph->block());
    lowerHolds(graph->block());
    arrangeForReading(*graph);
    Function* fresh = cu->create_function(name, std::move(graph));
    fresh->setSchema(std::move(schema));
    type->addMethod(fresh);
  }
}

std::string describe(const Input& input, const Model& model,
                     const std::vector<std::string>& pipeline) {
  std::set<std::string> ops;
  Json methods = Json::array();
  for (const auto& method : model.methods) {
    collectOps(*method.graph->block(), ops);
    Json steps = Json::array();
    for (const auto& step : method.steps)
      steps.push_back(describeStep(step));
    methods.push_back({{"name", method.name},
                       {"changed", method.changed},
                       {"steps", std::move(steps)}});
  }
  Json json = {{"format", 1},
               {"tool", {{"name", "inv-opt"}, {"version", kToolVersion}}},
               {"abi",
                {{"written_for", abi::kVersion},
                 {"oldest_supported", abi::kOldestSupported}}},
               {"operators", ops},
               {"pipeline", pipeline},
               {"source_sha256", digestOf(input)},
               {"methods", std::move(methods)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void writeArchive(const std::string& path, const Input& input, Model& model,
                  const std::vector<std::string>& pipeline) {
  AtomicFile file(path);
  bool changed = input.isOnnx() || // there is no archive yet
                 std::any_of(model.methods.begin(), model.methods.end(),
                             [](const Method& m) { return m.changed; });
  if (!changed) {
    copyInput(file, input);
    file.commit();
    return;
  }
  ExtraFilesMap extra(input.extraFiles.begin(), input.extraFiles.end());
  extra[abi::kArchiveMember] = describe(input, model, pipeline);
  installMethods(model);
  try {
    ExportModule(
        model.module,
        [&](const void* data, size_t size) {
          file.write(data, size);
          return size; // always all: LibTorch aborts on less
        },
        extra);
  } catch (const std::exception& error) {
    std::string message = error.what();
    throw Error(ExitCode::Contained,
                fmt::format("{}: LibTorch cannot write this model: {}", path,
                            message.substr(0, message.find('\n'))));
  }
  file.commit();
}

} // namespace inv::opt
