// A network of benchmarks/models.py, taken apart: head(blocks(stem(x))).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>

namespace inv::bench {

using Tensors = std::vector<at::Tensor>;

/// Calls of a network's branches since the last reset, by the hand-written
/// algorithms. (Steps count for themselves, inv::stats.)
struct Evaluations {
  static int64_t count;
};

/// One half of a coupling block.
class Branch {
public:
  explicit Branch(torch::jit::Module module) : module_(std::move(module)) {}
  at::Tensor operator()(const at::Tensor& x) const;
  Tensors parameters() const;

private:
  mutable torch::jit::Module module_;
};

/// A block: a coupling with branches f and g, or any module.
class Block {
public:
  explicit Block(torch::jit::Module module);

  bool isCoupling() const { return !branches_.empty(); }
  const Branch& f() const { return branches_.at(0); }
  const Branch& g() const { return branches_.at(1); }
  /// Dimension that the coupling splits.
  int64_t dim() const { return dim_; }
  /// The module as it was written.
  at::Tensor operator()(const at::Tensor& x) const;
  Tensors parameters() const;
  const torch::jit::Module& module() const { return module_; }

private:
  mutable torch::jit::Module module_;
  std::vector<Branch> branches_;
  int64_t dim_ = 0;
};

class Net {
public:
  /// Loads an archive, gives every parameter a gradient of zeros. Throws
  /// c10::Error where it cannot be loaded.
  explicit Net(const std::string& path);

  at::Tensor forward(const at::Tensor& x);
  at::Tensor stem(const at::Tensor& x);
  at::Tensor head(const at::Tensor& x);
  /// REQUIRES: an archive that was not rewritten.
  const std::vector<Block>& blocks();
  std::vector<std::pair<std::string, at::Tensor>> parameters() const;
  std::vector<std::pair<std::string, at::Tensor>> buffers() const;
  /// Sets the attribute `mode` of every step. No effect on an original.
  void setMode(const std::string& mode);
  int64_t numSteps() const;

private:
  torch::jit::Module module_;
  std::vector<Block> blocks_;
};

} // namespace inv::bench
