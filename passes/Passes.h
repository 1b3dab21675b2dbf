// Registry of passes and the pass manager.
#pragma once

#include "passes/Model.h"

#include <iosfwd>
#include <string>
#include <vector>

namespace inv::opt {

#define PASS(name, function, sentence) bool function(PassContext&);
#include "passes/Passes.def"
#undef PASS

struct PassInfo {
  const char* name;
  bool (*run)(PassContext&);
  const char* sentence;
};

/// All passes, in the order of Passes.def.
const std::vector<PassInfo>& allPasses();
/// Null where there is no pass of that name.
const PassInfo* findPass(const std::string& name);
/// Names of the default pipeline, in order.
const std::vector<std::string>& defaultPipeline();

/// The passes that a text names: names with commas between. Throws Error for an
/// unknown one.
std::vector<const PassInfo*> parsePipeline(const std::string& text);

/// How the pass manager runs a pipeline. Pass names in printBefore and
/// printAfter must exist.
struct PipelineOptions {
  std::vector<const PassInfo*> passes;
  /// A method in which no step was formed gets its graph back (the default
  /// pipeline: what has nothing to rewrite comes out as it was).
  bool onlyWithSteps = false;
  bool verifyEach = false; ///< verify() after each pass, not only at the ends
  bool printAfterAll = false;
  std::vector<std::string> printBefore;
  std::vector<std::string> printAfter;
  bool timing = false;         ///< a line for each pass
  std::ostream* log = nullptr; ///< where graphs and times go; null: nowhere
};

/// Runs the passes over every method of the model, method by method.
void runPipeline(Model& model, const Options& options,
                 const PipelineOptions& pipeline, Remarks& remarks);

/// Checks a method's graph: LibTorch's own invariants; that the inputs are
/// those of the module's method; that modules have the attributes that are
/// read; that a step's operator has a step of this ABI. Throws Error (code
/// CheckFailed), whose message ends with `when` ("after canonicalize").
void verify(const Model& model, const Method& method, const std::string& when);

} // namespace inv::opt
