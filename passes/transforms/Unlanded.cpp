// Stand-ins for passes that are still being written; each changes nothing.
#include "passes/Passes.h"

namespace inv::opt {

bool canonicalize(PassContext&) { return false; }
bool splitStreams(PassContext&) { return false; }
bool formSteps(PassContext&) { return false; }
bool inlineSteps(PassContext&) { return false; }
bool printInvertibility(PassContext&) { return false; }

} // namespace inv::opt
