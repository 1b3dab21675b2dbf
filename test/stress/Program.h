// One random program: a chain of random steps, random hazards along it, random
// backward calls.
#pragma once

#include "Parts.h"

namespace inv::test {

enum class Way {
  Steps,
  Plain, ///< plain autograd
  /// Plain autograd that refuses nothing: it saves copies, which no change in
  /// place reaches, and keeps every graph.
  PlainWithCopies,
};

class Program {
public:
  /// Equal seeds make equal programs.
  Program(uint64_t seed, const Allowed& allowed);

  /// Output values, then the gradients that were asked for, in order, then the
  /// buffers. Throws what autograd throws.
  Tensors run(Way way);

  /// How far a gradient may be off, relative to its largest element.
  double bound() const;
  /// Does it change a tensor in place that somebody may need?
  bool changes() const { return changes_; }
  /// Does it run backward without retain_graph over parts of one graph?
  bool releases() const { return releases_; }
  std::string describe() const;

private:
  at::Tensor input();
  at::Tensor laidOut(const at::Tensor& t);
  States forward(bool plain, Tensors& seen, Tensors& sides);
  void branch(bool plain, const States& states, Tensors& seen, Tensors& sides);
  void changeInPlace(const States& states);
  void hook(const at::Tensor& t);
  Tensors backward(const Tensors& seen, const Tensors& sides);
  at::Tensor lossOf(const Tensors& of);

  Random random_;
  Allowed allowed_;
  at::ScalarType dtype_;
  uint64_t maskSeed_;
  bool retainsAll_ = false, changes_ = false, releases_ = false;
  std::vector<Part> parts_;
  Tensors x_;
  std::vector<std::string> notes_;
};

} // namespace inv::test
