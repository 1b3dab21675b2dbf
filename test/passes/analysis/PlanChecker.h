// Does a plan keep enough? Runs a whole backward pass, node by node, in which
// every value that the plan neither keeps nor rebuilds is NaN.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

namespace inv::opt::testing {

struct PlanCheck {
  size_t derivations = 0;
  size_t dropped = 0; ///< storages that the plan does not keep
  /// Largest |difference| / max |reference| over the gradients of inputs and
  /// parameters against plain autograd; NaN where backward read what it has
  /// not.
  double worst = 0.0;
  std::string worstName;
};

/// Canonicalizes `module`'s forward, plans, and checks the plan on `inputs`
/// (float64). `forget`, where not negative, leaves out that derivation of the
/// inverse program: the check must then fail.
PlanCheck checkPlan(torch::jit::Module module,
                    const std::vector<at::Tensor>& inputs, int forget = -1);

} // namespace inv::opt::testing
