#include "StepFunctions.h"

#include <algorithm>

namespace inv {

double StepFunctions::growth(Tensors, Tensors, Tensors, const Extras&) const {
  return std::max(1.0, layout().constantGrowth);
}

const char* opName(StepKind kind) {
  switch (kind) {
  case StepKind::Coupling:
    return "inv::coupling";
  case StepKind::Bijection:
    return "inv::bijection";
  case StepKind::Checkpoint:
    return "inv::checkpoint";
  }
  return "inv::?";
}

bool StepLayout::isScratch(size_t capture) const {
  return std::find(scratch.begin(), scratch.end(),
                   static_cast<int64_t>(capture)) != scratch.end();
}

std::string describe(StepKind kind, const StepFunctions& step) {
  const std::string origin = step.origin();
  return std::string(opName(kind)) +
         (origin.empty() ? std::string() : " (" + origin + ")");
}

} // namespace inv
