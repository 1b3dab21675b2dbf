// Which operators give other bits for other strides of the same values.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

enum class LayoutUse {
  /// The result is the same, bit for bit and in its own strides, whether the
  /// operand is a piece of a larger tensor or a contiguous copy of it.
  Insensitive,
  /// The result is (or may be) the operand in other clothes: ask its readers.
  View,
  /// The result may differ in its last bits, or it is not known.
  Sensitive
};

/// What the use makes of its operand's strides; see LayoutSensitivity.cpp for
/// the table and how it was measured.
LayoutUse layoutUse(const torch::jit::Use& use);

/// Whether some reader of the value, also through views, is Sensitive.
bool hasSensitiveReader(const torch::jit::Value* value);
/// The same for one use.
bool isSensitiveUse(const torch::jit::Use& use);

} // namespace inv::opt
