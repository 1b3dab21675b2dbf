#include "passes/Passes.h"

#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"

#include <algorithm>
#include <chrono>
#include <ostream>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace inv::opt {

const std::vector<PassInfo>& allPasses() {
  static const std::vector<PassInfo> passes = {
#define PASS(name, function, sentence) {name, function, sentence},
#include "passes/Passes.def"
#undef PASS
  };
  return passes;
}

const PassInfo* findPass(const std::string& name) {
  for (const auto& pass : allPasses())
    if (name == pass.name)
      return &pass;
  return nullptr;
}

const std::vector<std::string>& defaultPipeline() {
  static const std::vector<std::string> names = {
      // First, so that the analysis meets one spelling of everything.
      "canonicalize",
      // Before steps are formed: a cat between two blocks would hide that the
      // second block's states are the first one's.
      "split-streams",
      "form-steps",
  };
  return names;
}

std::vector<const PassInfo*> parsePipeline(const std::string& text) {
  std::vector<const PassInfo*> passes;
  for (const auto& name : splitList(text, ',')) {
    const PassInfo* pass = findPass(name);
    if (pass != nullptr) {
      passes.push_back(pass);
      continue;
    }
    std::vector<std::string> known;
    for (const auto& other : allPasses())
      known.emplace_back(other.name);
    auto near = nearMatches(name, known);
    throw Error(ExitCode::BadInput,
                fmt::format("unknown pass '{}'; {}", name,
                            near.empty()
                                ? "--list-passes names all"
                                : fmt::format("did you mean '{}'?", near[0])));
  }
  return passes;
}

namespace {

bool contains(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void printGraph(const PipelineOptions& pipeline, const Method& method,
                const std::string& when) {
  if (pipeline.log != nullptr)
    *pipeline.log << "# " << when << ": method " << method.name << "\n"
                  << method.graph->toString() << "\n";
}

/// Verifies after a pass; when that fails, the graph before it is printed, so
/// that the failure can be reproduced from it.
void verifyAfter(const PipelineOptions& pipeline, const Model& model,
                 const Method& method, const PassInfo& pass,
                 const std::string& before) {
  try {
    verify(model, method, fmt::format("after {}", pass.name));
  } catch (const Error&) {
    if (pipeline.log != nullptr)
      *pipeline.log << "# before " << pass.name << ": method " << method.name
                    << "\n"
                    << before << "\n";
    throw;
  }
}

void runPass(const PassInfo& pass, PassContext& context,
             const PipelineOptions& pipeline) {
  Method& method = context.method;
  if (contains(pipeline.printBefore, pass.name))
    printGraph(pipeline, method, fmt::format("before {}", pass.name));
  std::string before = pipeline.verifyEach ? method.graph->toString() : "";
  context.remarks.setPass(pass.name);
  auto start = std::chrono::steady_clock::now();
  bool changed = pass.run(context);
  std::chrono::duration<double, std::milli> time =
      std::chrono::steady_clock::now() - start;
  method.changed |= changed;
  if (pipeline.timing && pipeline.log != nullptr)
    *pipeline.log << fmt::format("{}: {}: {} in {:.1f} ms\n", method.name,
                                 pass.name, changed ? "changed" : "unchanged",
                                 time.count());
  if (pipeline.printAfterAll || contains(pipeline.printAfter, pass.name))
    printGraph(pipeline, method, fmt::format("after {}", pass.name));
  if (!pipeline.verifyEach)
    return;
  if (!changed && before != method.graph->toString())
    throw Error(ExitCode::CheckFailed,
                fmt::format("{} changed '{}' and said that it did not",
                            pass.name, method.name));
  verifyAfter(pipeline, context.model, method, pass, before);
}

} // namespace

void runPipeline(Model& model, const Options& options,
                 const PipelineOptions& pipeline, Remarks& remarks) {
  for (Method& method : model.methods) {
    verify(model, method, "as imported");
    remarks.setMethod(method.name);
    PassContext context{model, method, options, remarks};
    auto original = method.graph->copy();
    for (const PassInfo* pass : pipeline.passes)
      runPass(*pass, context, pipeline);
    if (pipeline.onlyWithSteps && method.steps.empty()) {
      method.graph = std::move(original);
      method.changed = false;
    }
    verify(model, method, "after the last pass");
  }
}

} // namespace inv::opt
