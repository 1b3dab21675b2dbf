// Registry of passes and the pass manager.
#pragma once

#include "passes/Model.h"

#include <string>
#include <vector>

namespace inv::opt {

#define PASS(name, function, sentence) bool function(PassContext&);
#include "passes/Passes.def"
#undef PASS

struct PassInfo {
  const char* name;
  bool (*run)(PassContext&);
  const char* sentence;
};

/// All passes, in the order of Passes.def.
const std::vector<PassInfo>& allPasses();
/// Null where there is no pass of that name.
const PassInfo* findPass(const std::string& name);
/// Names of the default pipeline, in order.
const std::vector<std::string>& defaultPipeline();

} // namespace inv::opt
