// inv-opt INPUT [-o OUTPUT] [options]: import, run passes, export.
#include "passes/export/AccountingJson.h"
#include "passes/export/ArchiveWriter.h"
#include "passes/export/IrPrinter.h"
#include "passes/export/RemarksJson.h"
#include "passes/support/AtomicFile.h"
#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"
#include "tools/inv-opt/Cli.h"
#include "tools/inv-opt/Summary.h"

#include <cstdlib>
#include <exception>
#include <iostream>
#include <sstream>

#include <dlfcn.h>
#include <fmt/format.h>

namespace inv::opt {
namespace {

/// The library that is being loaded.
std::string loading;

/// What a library's initialisation throws (an operator that is there already)
/// cannot pass the loader and ends the program: here with a message.
[[noreturn]] void refuseLibrary() {
  std::string text = "its initialisation failed";
  try {
    if (auto thrown = std::current_exception())
      std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
  }
  std::cerr << "inv-opt: error: --load-library=" << loading << ": "
            << text.substr(0, text.find('\n')) << std::endl;
  std::_Exit(static_cast<int>(ExitCode::BadInput));
}

void loadLibraries(const Settings& settings) {
  auto handler = std::set_terminate(refuseLibrary);
  for (const auto& library : settings.libraries) {
    loading = library;
    // A name without a slash is a file here, not something on the search path.
    std::string path =
        library.find('/') == std::string::npos ? "./" + library : library;
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr)
      throw Error(ExitCode::BadInput,
                  fmt::format("--load-library={}: {}", library, dlerror()));
  }
  std::set_terminate(handler);
}

void writeText(const std::string& path, const std::string& text) {
  if (path.empty() || path == "-") {
    std::cout << text << std::flush;
    if (!std::cout)
      throw Error(ExitCode::Io, "standard output cannot be written");
    return;
  }
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

std::string irText(const std::vector<Model>& models) {
  std::ostringstream out;
  for (const auto& model : models) {
    if (&model != &models.front())
      out << "// -----\n";
    printIr(out, model);
  }
  return out.str();
}

void checkSteps(const Settings& settings, const std::vector<Model>& models) {
  int64_t steps = 0;
  for (const auto& model : models)
    for (const auto& method : model.methods)
      steps += countSteps(method);
  if (steps < settings.requireSteps)
    throw Error(ExitCode::CheckFailed,
                fmt::format("--require-steps={}: {} steps were formed",
                            settings.requireSteps, steps));
}

/// Of all methods that were analysed.
std::vector<Accounting> accountings(const std::vector<Model>& models) {
  std::vector<Accounting> all;
  for (const auto& model : models)
    for (const auto& method : model.methods)
      if (method.accounting)
        all.push_back(*method.accounting);
  return all;
}

void report(const Settings& settings, const std::vector<Model>& models,
            const Remarks& remarks) {
  for (const auto& remark : remarks.all())
    if (settings.remarks.count(remark.kind) > 0)
      printRemark(std::cerr, remark);
  if (!settings.remarksOutput.empty())
    writeText(settings.remarksOutput, remarksJson(settings.input, remarks));
  if (settings.analyze)
    for (const Accounting& a : accountings(models))
      print(std::cout, a);
  if (!settings.analyzeOutput.empty())
    writeText(settings.analyzeOutput,
              accountingJson(settings.input, accountings(models)));
  if (!settings.quiet && !settings.analyze)
    printSummary(std::cerr, models, remarks);
}

void writeOutput(const Settings& settings, Input& input,
                 const PipelineOptions& pipeline) {
  if (settings.analyze && settings.output.empty() && !settings.printIr)
    return;
  if (settings.printIr || input.kind == InputKind::IrText) {
    writeText(settings.output, irText(input.models));
    return;
  }
  if (settings.output.empty())
    return;
  if (settings.output == "-")
    throw Error(ExitCode::BadInput,
                "an archive is not written to standard output; -S prints IR");
  std::vector<std::string> names;
  for (const auto* pass : pipeline.passes)
    names.emplace_back(pass->name);
  writeArchive(settings.output, input, input.models.front(), names);
}

int run(int argc, char** argv) {
  auto settings = parseCommandLine(argc, argv);
  if (!settings)
    return 0;
  auto pipeline = pipelineOf(*settings);
  loadLibraries(*settings);
  Input input = importInput(settings->input, settings->import);
  for (const auto& warning : input.warnings)
    std::cerr << "warning: " << warning << "\n";
  Remarks remarks;
  for (auto& model : input.models)
    runPipeline(model, settings->options, pipeline, remarks);
  report(*settings, input.models, remarks);
  checkSteps(*settings, input.models);
  writeOutput(*settings, input, pipeline);
  return 0;
}

} // namespace
} // namespace inv::opt

int main(int argc, char** argv) {
  using namespace inv::opt;
  auto fail = [](const std::string& message, ExitCode code) {
    std::cerr << "inv-opt: error: " << message << "\n";
    return static_cast<int>(code);
  };
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    return fail(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return fail("out of memory; nothing was written", ExitCode::Contained);
  } catch (const std::exception& error) {
    // Nobody saw this one coming: a LibTorch check, or a bug of ours.
    std::string text = error.what();
    return fail("internal: " + text.substr(0, text.find('\n')) +
                    "; nothing was written",
                ExitCode::Contained);
  }
}
