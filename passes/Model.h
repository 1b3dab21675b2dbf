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

/// A method under compilation. `graph` is a private, inlined copy (the
/// importer made it): passes change it freely, and the module's own method
/// stays as it was until the exporter installs the copy.
struct Method {
  std::string name;
  std::shared_ptr<torch::jit::Graph> graph; ///< first input: self
  bool changed = false;                     ///< some pass changed it
};

/// The module under compilation. Steps made by passes are registered on
/// `module` as submodules (abi::kStepPrefix), their classes in its
/// compilation unit.
struct Model {
  torch::jit::Module module;
  std::vector<Method> methods;
};

/// What a pass is handed beside the graph.
struct PassContext {
  Model& model;
  Method& method;
  const Options& options;
  Remarks& remarks;
};

} // namespace inv::opt
