// What the methods of a step do besides computing, read off their graphs.
#pragma once

#include <ATen/core/function.h>

#include <optional>
#include <string>
#include <vector>

namespace torch::jit {
struct Node;
}
namespace c10 {
struct FunctionSchema;
}

namespace inv {

/// What a method does with one of its arguments.
struct ArgumentFacts {
  /// A node may write it in place, as batch norm does its running statistics.
  bool written = false;
  /// A result may depend on the value that the method found in it.
  bool read = false;
  /// Arguments, each batch norm's `training`, of which one that is false has
  /// the value read after all.
  std::vector<size_t> readUnless;
  /// The operator, such as "aten::sort", of a discrete choice that it
  /// influences: one unit in the last place more or less, and the result is
  /// another. Empty if there is none.
  std::string choice;
  /// Arguments whose dtype it is cast to, or which name the dtype: a choice if
  /// that is no floating one.
  std::vector<size_t> castTo;
  /// Values, each once, at which exactly it matters that an element is that
  /// very value: it reaches an operator that has a kink there.
  std::vector<double> ties;
};

struct MethodFacts {
  std::vector<ArgumentFacts> arguments; ///< without self
  /// It may draw from a default generator. True in doubt.
  bool mayDraw = false;
  /// It runs parts of itself on other threads (torch.jit.fork).
  bool forks = false;
  /// An attribute of the step that it reads or writes and that may hold
  /// tensors, of which a step's node knows nothing. Empty if there is none.
  std::string attribute;
};

/// May an output of `n` be its input number `i`, or a view of it? `schema`: its
/// schema, null if it has none.
bool mayReturnArgument(const torch::jit::Node& n,
                       const c10::FunctionSchema* schema, size_t i);
/// Does an operator write its argument number `i`?
bool writesArgument(const c10::FunctionSchema& schema, size_t i);

/// REQUIRES: `method` is a TorchScript function.
MethodFacts analyzeMethod(torch::jit::Function& method);

} // namespace inv
