// Rewriting a model within a test, as inv-opt would.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <cstdint>

namespace inv::test {

/// Was the test built with the passes? (Not where the runtime alone is built.)
bool canRewrite();

/// What inv-opt makes of `model` by default: saved, read, rewritten, written
/// and loaded again, on `device`. Throws, with the remarks, where not `steps`
/// steps are formed. REQUIRES: canRewrite().
torch::jit::Module rewritten(const torch::jit::Module& model, int64_t steps,
                             c10::Device device);

} // namespace inv::test
