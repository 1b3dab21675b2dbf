// Runs a step: what the operators inv::coupling, inv::bijection and
// inv::checkpoint do.
#pragma once

#include "StepFunctions.h"

namespace inv {

/// Outputs y..., sides..., z... (see inv/Abi.h). Without gradients, or in mode
/// `store`, this is the composition of the step's methods; else the outputs
/// belong to one StepNode.
Tensors runStep(StepKind kind, std::shared_ptr<const StepFunctions> step,
                const Tensors& x, const Tensors& z, const Tensors& captures,
                Extras extras);

} // namespace inv
