// Symbols that passes compare node kinds with (a Symbol, never a string).
#pragma once

#include "inv/Abi.h"

#include <string>

#include <ATen/core/interned_strings.h>

namespace inv::opt::sym {

inline c10::Symbol coupling() {
  static const auto s = c10::Symbol::fromQualString(abi::kCoupling);
  return s;
}
inline c10::Symbol bijection() {
  static const auto s = c10::Symbol::fromQualString(abi::kBijection);
  return s;
}
inline c10::Symbol checkpoint() {
  static const auto s = c10::Symbol::fromQualString(abi::kCheckpoint);
  return s;
}
inline c10::Symbol resplit() {
  static const auto s = c10::Symbol::fromQualString(abi::kResplit);
  return s;
}
inline c10::Symbol asPiece() {
  static const auto s = c10::Symbol::fromQualString(abi::kAsPiece);
  return s;
}
/// The operator that names the ABI version an archive was written for.
inline c10::Symbol needsRuntime() {
  static const auto s = c10::Symbol::fromQualString(
      abi::kNeedsPrefix + std::to_string(abi::kVersion));
  return s;
}
inline c10::Symbol setGradEnabled() {
  static const auto s = c10::Symbol::fromQualString("aten::set_grad_enabled");
  return s;
}

/// Whether a node of this kind runs a step object (its first input).
inline bool isStep(c10::Symbol kind) {
  return kind == coupling() || kind == bijection() || kind == checkpoint();
}

} // namespace inv::opt::sym
