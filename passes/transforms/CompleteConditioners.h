// What else goes into the conditioner of a step, beside the network itself.
#pragma once

#include "passes/transforms/StepDraft.h"

namespace inv::opt {

/// Adds to each step's conditioner
///   numbers   that only exist inside, such as the size of a hidden layer;
///   checks    of a hidden layer's shape (`if x.dim() != 4: raise`), or the
///             layer would have to come out for it;
///   terms     what a loss takes of the network's results, summed up, where it
///             would keep something (a log-determinant, log(s).sum()): the sums
///             come out, small;
///   derived   values that follow from parameters alone (DerivedValues.h).
/// REQUIRES: conditioner and stream of the steps are filled in.
void completeConditioners(std::vector<StepDraft>& steps, const Dataflow& flow);

} // namespace inv::opt
