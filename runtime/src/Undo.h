// Undoing one executed step.
#pragma once

#include "Slot.h"

namespace inv {

/// The x of which the step made `y`, from a run of its own, without grad mode
/// and under what its forward saw.
Tensors undoRecord(const Record& record, Tensors y, Tensors z);

/// Runs the conditioner again: aux, then sides, with history under grad mode.
Tensors replayConditioner(const Record& record, const ReplayGuard& guard,
                          Tensors z, Tensors captures);

/// Runs the step's method `inverse` and checks what it returned. `aux` and
/// `captures` (those of the function) are used without their history.
Tensors runInverseChecked(const Record& record, const ReplayGuard& guard,
                          Tensors y, const Tensors& aux,
                          const Tensors& captures);

/// `tensors`, detached.
Tensors detachAll(const Tensors& tensors);
/// The same, as leaves that require grad where `needsGrad[from + i]`.
Tensors leavesOf(const Tensors& tensors, const std::vector<bool>& needsGrad,
                 size_t from);

} // namespace inv
