// Which attributes a method writes, and which of its values are them.
#pragma once

#include "passes/analysis/Dataflow.h"

#include <string>
#include <unordered_set>

namespace torch::jit {
struct Block;
}

namespace inv::opt {

/// A snapshot: build anew after a change of the graph.
class WrittenAttributes {
public:
  explicit WrittenAttributes(const Dataflow& flow);

  /// Is the value an attribute that an operator of the method writes, openly or
  /// as its running statistics, or that the method sets anew?
  bool isOne(ValueId v) const { return written_.count(v) != 0; }

  /// Is the value an attribute that an operator of the method writes, or a
  /// piece of one? Whoever needs what is in it now needs a copy. Not told of
  /// attributes that are only set anew.
  bool mayChange(ValueId v) const;

private:
  static void findTouched(const Dataflow& flow,
                          std::unordered_set<std::string>& paths);
  void findChanged(const torch::jit::Block* block);

  const Dataflow& flow_;
  std::unordered_set<ValueId> written_;
  /// Their paths; "" for those of which that is not known.
  std::unordered_set<std::string> changed_;
};

} // namespace inv::opt
