#include "tools/inv-opt/Cli.h"

#include "inv/Abi.h"
#include "passes/import/onnx/ImportOnnx.h"
#include "passes/support/Error.h"
#include "passes/support/StringUtil.h"
#include "passes/support/TensorText.h"
#include "passes/support/Version.h"

#include <cmath>
#include <iostream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <torch/version.h>

namespace inv::opt {
namespace {

/// Flags as text, before they are made into settings.
struct Raw {
  std::string layout = "keep";
  std::string emit = "torchscript";
  std::vector<std::string> inputs;
  std::vector<std::string> remarks;
  bool version = false;
  bool listOnnx = false;
};

std::string versionText() {
  return fmt::format("inv-opt {} (runtime ABI {} to {})\nLibTorch {}\nCUDA "
                     "none (the compiler runs on the CPU)\n",
                     kToolVersion, abi::kOldestSupported, abi::kVersion,
                     TORCH_VERSION);
}

void printPassList() {
  for (const auto& pass : allPasses())
    std::cout << fmt::format("{:<22} {}\n", pass.name, pass.sentence);
  std::cout << "default: ";
  for (const auto& name : defaultPipeline())
    std::cout << (&name == &defaultPipeline().front() ? "" : ",") << name;
  std::cout << "\n";
}

void addFlags(CLI::App& app, Settings& settings, Raw& raw) {
  app.add_option("INPUT", settings.input,
                 "TorchScript archive, ONNX model or printed IR; '-' is "
                 "standard input");
  app.add_option("-o,--output", settings.output,
                 "Where to write; '-' is standard output");
  app.add_flag("-S,--print-ir", settings.printIr,
               "Write printed IR instead of an archive");
  app.add_option("--emit", raw.emit,
                 "What to write: torchscript, an archive (ONNX is not written "
                 "yet)")
      ->check(CLI::IsMember({"torchscript", "onnx"}));
  app.add_option("--method", settings.import.methods,
                 "Method to compile (repeatable; default: forward)")
      ->allow_extra_args(false);
  app.add_option("--load-library", settings.libraries,
                 "Library with custom operators (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--input", raw.inputs,
                 "Sample input such as x:f32[8,3,32,32] (repeatable, in the "
                 "order of the method's arguments)")
      ->allow_extra_args(false);
}

void addOnnxFlags(CLI::App& app, Settings& settings, Raw& raw) {
  const std::string group = "ONNX";
  app.add_option("--buffer", settings.import.buffers,
                 "Initializer that is a buffer, and not trained; NAME* stands "
                 "for all that begin with NAME (repeatable)")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag("--list-onnx-operators", raw.listOnnx,
               "List the operators that are imported, with the first and last "
               "definition that is known")
      ->group(group);
}

void addPassFlags(CLI::App& app, Settings& settings, Raw& raw) {
  const std::string group = "Passes";
  app.add_option("--passes", settings.passes,
                 "Run exactly these passes (comma-separated); --passes= runs "
                 "none")
      ->group(group);
  app.add_flag("--list-passes", settings.listPasses,
               "List all passes and the default pipeline")
      ->group(group);
  app.add_option("--invertible", settings.options.invertible,
                 "Path of a submodule that is invertible (repeatable)")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--mode", settings.options.mode,
                 "Mode that new steps start in")
      ->check(CLI::IsMember({abi::kInvert, abi::kRecompute, abi::kStore}))
      ->group(group);
  app.add_option("--layout", raw.layout,
                 "keep: forward is bit-identical; fast: fewer copies")
      ->check(CLI::IsMember({"keep", "fast"}))
      ->group(group);
  app.add_option("--max-condition", settings.options.maxCondition,
                 "Largest condition number of a weight undone by a solve")
      ->group(group);
  app.add_option("--max-growth", settings.options.maxGrowth,
                 "Most by which undoing a chain may enlarge rounding errors "
                 "until a value is kept")
      ->group(group);
  app.add_option("--max-conditioner", settings.options.maxConditioner,
                 "Most nodes visited in the search for a conditioner")
      ->group(group);
  app.add_flag("--saturating", settings.options.saturating,
               "Undo activations that saturate (sigmoid, tanh, exp, ...) as "
               "well, as far as the values of each call allow")
      ->group(group);
  app.add_flag("--force-steps", settings.options.forceSteps,
               "Form steps whether or not they save anything")
      ->group(group);
}

void addReportFlags(CLI::App& app, Settings& settings, Raw& raw) {
  const std::string group = "Checks and reports";
  app.add_option("--require-steps", settings.requireSteps,
                 "Fail (exit code 1) where fewer steps were formed")
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  app.add_flag("--verify-each", settings.verifyEach,
               "Verify the graph after each pass")
      ->group(group);
  app.add_option("--print-ir-before", settings.printBefore,
                 "Print the graph before this pass (repeatable)")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--print-ir-after", settings.printAfter,
                 "Print the graph after this pass (repeatable)")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag("--print-ir-after-all", settings.printAfterAll,
               "Print the graph after each pass")
      ->group(group);
  app.add_option("--remarks", raw.remarks,
                 "Remarks to print: passed, missed, analysis, all "
                 "(comma-separated)")
      ->delimiter(',')
      ->check(CLI::IsMember({"passed", "missed", "analysis", "all"}))
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--remarks-output", settings.remarksOutput,
                 "Write all remarks to this file, as JSON")
      ->group(group);
  app.add_flag("--analyze", settings.analyze,
               "Print what training keeps for backward: each block, before and "
               "after, and why (bytes with --input)")
      ->group(group);
  app.add_option("--analyze-output", settings.analyzeOutput,
                 "Write the same to this file, as JSON")
      ->group(group);
  app.add_flag("-q,--quiet", settings.quiet, "No summary")->group(group);
  app.add_flag("-v,--verbose", settings.verbose, "Times of the passes")
      ->group(group);
  app.add_flag("--version", raw.version, "Versions of the tool and LibTorch")
      ->group(group);
}

std::set<RemarkKind> remarkKinds(const std::vector<std::string>& names) {
  std::set<RemarkKind> kinds;
  for (const auto& name : names) {
    if (name == "passed" || name == "all")
      kinds.insert(RemarkKind::Passed);
    if (name == "missed" || name == "all")
      kinds.insert(RemarkKind::Missed);
    if (name == "analysis" || name == "all")
      kinds.insert(RemarkKind::Analysis);
  }
  return kinds;
}

/// `x:f32[8,3,32,32]`, or `decode.z:f32[8,16]` for one method.
SampleInput sampleInput(const std::string& text, size_t index) {
  size_t colon = text.find(':');
  bool named = colon != std::string::npos && colon < text.find('[');
  std::string tensor = named ? text.substr(colon + 1) : text;
  Cursor cursor(tensor, "--input");
  at::Tensor value = parseTensor(cursor, 1 + index);
  cursor.expectEnd();
  return {named ? text.substr(0, colon) : "", value};
}

void checkPassNames(const std::vector<std::string>& names) {
  for (const auto& name : names)
    parsePipeline(name); // an error for an unknown one
}

void finish(Settings& settings, const Raw& raw) {
  if (settings.input.empty())
    throw Error(ExitCode::BadInput, "no input; --help tells more");
  if (!(settings.options.maxCondition >= 1))
    throw Error(ExitCode::BadInput, "--max-condition must be at least 1");
  if (!(settings.options.maxGrowth >= 1))
    throw Error(ExitCode::BadInput, "--max-growth must be at least 1");
  if (raw.emit == "onnx")
    throw Error(ExitCode::BadInput,
                "--emit=onnx: ONNX is read, and not written yet; "
                "--emit=torchscript writes an archive");
  settings.options.layout = raw.layout == "fast" ? Layout::Fast : Layout::Keep;
  settings.options.analyze =
      settings.analyze || !settings.analyzeOutput.empty();
  settings.import.onnx = importOnnx;
  settings.import.invertible = settings.options.invertible;
  settings.remarks = remarkKinds(raw.remarks);
  for (const auto& text : raw.inputs)
    settings.options.sampleInputs.push_back(
        sampleInput(text, settings.options.sampleInputs.size()));
  checkPassNames(settings.printBefore);
  checkPassNames(settings.printAfter);
}

} // namespace

std::optional<Settings> parseCommandLine(int argc, char** argv) {
  CLI::App app("Rewrites a saved TorchScript model so that backward rebuilds "
               "activations instead of keeping them.",
               "inv-opt");
  Settings settings;
  Raw raw;
  addFlags(app, settings, raw);
  addOnnxFlags(app, settings, raw);
  addPassFlags(app, settings, raw);
  addReportFlags(app, settings, raw);
  app.footer("Exit codes: 0 done, 1 a check failed, 2 bad input, 3 a contained "
             "crash, 4 reading or writing failed.");
  // CLI11 takes the next argument for the value of `--passes=`, which means no
  // pass at all. It reads its arguments from the back.
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    if (std::string_view(argv[i]) == "--passes=")
      settings.passes = "";
    else
      arguments.emplace_back(argv[i]);
  }
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    throw Error(ExitCode::BadInput, error.what());
  }
  if (raw.version) {
    std::cout << versionText();
    return std::nullopt;
  }
  if (raw.listOnnx) {
    std::cout << onnxOperatorList();
    return std::nullopt;
  }
  if (settings.listPasses) {
    printPassList();
    return std::nullopt;
  }
  finish(settings, raw);
  return settings;
}

PipelineOptions pipelineOf(const Settings& settings) {
  PipelineOptions pipeline;
  if (settings.passes) {
    pipeline.passes = parsePipeline(*settings.passes);
  } else {
    pipeline.onlyWithSteps = true;
    for (const auto& name : defaultPipeline())
      pipeline.passes.push_back(findPass(name));
  }
  pipeline.verifyEach = settings.verifyEach;
  pipeline.printAfterAll = settings.printAfterAll;
  pipeline.printBefore = settings.printBefore;
  pipeline.printAfter = settings.printAfter;
  pipeline.timing = settings.verbose;
  pipeline.log = &std::cerr;
  return pipeline;
}

} // namespace inv::opt
