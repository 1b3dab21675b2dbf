// The command line of inv-opt.
#pragma once

#include "passes/Passes.h"
#include "passes/import/Import.h"
#include "passes/support/Options.h"

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace inv::opt {

/// Everything that the command line says.
struct Settings {
  std::string input;
  std::string output; ///< empty: none; "-": standard output
  bool printIr = false;
  bool listPasses = false;
  std::optional<std::string> passes; ///< as written; nothing: the default
  bool printAfterAll = false;
  bool verifyEach = false;
  std::vector<std::string> printBefore, printAfter;
  std::vector<std::string> libraries;
  int64_t requireSteps = 0;
  std::set<RemarkKind> remarks; ///< kinds to print
  std::string remarksOutput;    ///< file, or empty
  bool analyze = false;         ///< print the accounting
  std::string analyzeOutput;    ///< write it to this file, or empty
  bool quiet = false;
  bool verbose = false;
  Options options;
  ImportOptions import;
};

/// Reads the command line. Returns nothing when the run is over (--help,
/// --version, --list-passes); throws Error (BadInput) for a mistake.
std::optional<Settings> parseCommandLine(int argc, char** argv);

/// The pipeline that the settings ask for.
PipelineOptions pipelineOf(const Settings& settings);

} // namespace inv::opt
