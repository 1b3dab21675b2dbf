// What the exporter needs to know of inline-steps.
#pragma once

#include "passes/Model.h"

namespace inv::opt {

/// Removes the step submodules (abi::kStepPrefix) that no method reads any
/// more, from the module and from its class. Methods under compilation are
/// judged by their working graphs, the others by what the module has.
///
/// Until the exporter has installed the working graphs, the module's own
/// methods may still name what was removed: do not run them in between. Objects
/// of the class other than `model.module` become invalid.
///
/// Returns how many were removed.
int removeUnusedSteps(Model& model);

} // namespace inv::opt
