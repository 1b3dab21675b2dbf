// Writes a drafted step: the TorchScript class with its conditioner, function
// and inverse, the submodule of that class, and the call in the method.
#pragma once

#include "passes/Model.h"
#include "passes/transforms/StepDraft.h"

#include <functional>
#include <map>
#include <string>
#include <unordered_map>

namespace inv::opt {

/// Makes steps for one method, its ifs and loops included. Identical steps
/// share one class, also across methods of one model (classes of earlier runs
/// are found again by name and never changed).
class StepWriter {
public:
  explicit StepWriter(PassContext& context) : context_(context) {}

  /// Inserts the call of a new step at the graph's insert point. `rules` are
  /// those of the block that the draft is of. `current`
  /// gives the value that stands for a value of the original graph there (an
  /// output of a step inserted before, a state passed through). Returns the
  /// step's outputs, in the order of Abi.h (ys, sides, zs).
  std::vector<torch::jit::Value*>
  write(const StepDraft& draft, const RuleContext& rules,
        const std::function<torch::jit::Value*(torch::jit::Value*)>& current);

private:
  PassContext& context_;
  std::map<std::string, c10::ClassTypePtr> classes_; ///< by content
};

} // namespace inv::opt
