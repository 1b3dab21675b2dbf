// What is being compiled: a module and working copies of its methods' graphs.
#pragma once

#include "passes/support/Options.h"
#include "passes/support/Remarks.h"

#include <memory>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

struct Accounting;

/// What one step saves, for the summary and the archive's description; the
/// pass that makes a step appends one.
struct StepReport {
  std::string kind;          ///< coupling, bijection or checkpoint
  std::string module;        ///< path of the submodule, or empty
  std::string source;        ///< "net.py:41:8", or empty
  int64_t valuesDropped = 0; ///< values that autograd no longer keeps
  int64_t bytesDropped = -1; ///< their bytes; -1 where sizes are unknown
};

/// A method under compilation. `graph` is a private, inlined copy (the
/// importer made it): passes change it freely, and the module's own method
/// stays as it was until the exporter installs the copy.
struct Method {
  std::string name;
  std::shared_ptr<torch::jit::Graph> graph; ///< first input: self
  bool changed = false;                     ///< some pass changed it
  std::vector<StepReport> steps;            ///< of the steps that were made
  /// What training keeps, before and after (Options::analyze).
  std::shared_ptr<const Accounting> accounting;
};

/// The module under compilation. Steps made by passes are registered on
/// `module` as submodules (abi::kStepPrefix), their classes in its
/// compilation unit.
struct Model {
  torch::jit::Module module;
  std::vector<Method> methods; ///< the chosen ones, in the order chosen
};

/// What a pass is handed beside the graph.
struct PassContext {
  Model& model;
  Method& method;
  const Options& options;
  Remarks& remarks;
};

} // namespace inv::opt
