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

/// Makes steps for one method. Identical steps share one class, also across
/// methods of one model (classes of earlier runs are found again by name and
/// never changed).
class StepWriter {
public:
  StepWriter(PassContext& context, const RuleContext& rules)
      : context_(context), rules_(rules) {}

  /// Inserts the call of a new step at the graph's insert point. `current`
  /// gives the value that stands for a value of the original graph there (an
  /// output of a step inserted before, a state passed through). Returns the
  /// step's outputs, in the order of Abi.h (ys, sides, zs).
  std::vector<torch::jit::Value*>
  write(const StepDraft& draft,
        const std::function<torch::jit::Value*(torch::jit::Value*)>& current);

private:
  PassContext& context_;
  const RuleContext& rules_;
  std::map<std::string, c10::ClassTypePtr> classes_; ///< by content
};

} // namespace inv::opt
