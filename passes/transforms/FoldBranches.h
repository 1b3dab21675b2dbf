// Branches that the saved model has already decided.
#pragma once

#include "passes/Model.h"

#include <set>
#include <string>

namespace inv::opt {

/// Replaces optional tensors that the module holds (a bias that is there, or is
/// not) by what they are, folds numbers and flags that follow from constants,
/// and puts the taken side in the place of an `if` on a constant. What a user
/// may still change (`self.training`) stays a branch. `written` are the names
/// of the attributes that the model writes. Returns whether the graph changed.
bool foldBranches(PassContext& context, const std::set<std::string>& written);

} // namespace inv::opt
