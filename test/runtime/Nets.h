// Chains of coupling steps, through two doors: the operator called directly,
// and a TorchScript model that was saved and loaded. With the same function in
// plain autograd.
#pragma once

#include "Steps.h"

namespace inv::test {

enum class Door { Operator, Archive };

/// F of y = x + F(z).
struct Conditioner {
  std::string code; // method `conditioner(self, z, captures...)`
  std::function<at::Tensor(const at::Tensor& z, const Tensors& captures)> plain;
  std::function<Tensors()> captures; // new ones, for one step
  std::vector<int64_t> scratch;
};

/// Twice linear and tanh, float64 or another dtype; captures on testDevice().
Conditioner tanhNet(int64_t width, at::ScalarType dtype = at::kDouble);
/// No parameters: `code` is an expression in z, `plain` the same.
Conditioner expression(const std::string& code,
                       std::function<at::Tensor(const at::Tensor&)> plain);

class Net {
public:
  Net(Door door, int64_t steps, const Conditioner& conditioner,
      double xScale = 1, double auxScale = 1);

  /// Both streams after all steps; step i adds F(b) to a, and they swap. The
  /// first is the very tensor that the last step read, as in plain autograd:
  /// its gradient is that of all its uses.
  Tensors operator()(const at::Tensor& a, const at::Tensor& b);
  Tensors plain(const at::Tensor& a, const at::Tensor& b) const;

  Tensors captures() const; // of all steps
  Tensors parameters() const;
  void setMode(const std::string& mode);
  torch::jit::Module& step() { return step_; }
  torch::jit::Module& model() { return model_; } // Door::Archive
  /// Reads the captures of `model()` again.
  void refresh();

  std::vector<Tensors> ofStep; // captures by step

private:
  void makeModel();

  Door door_;
  Conditioner conditioner_;
  double xScale_, auxScale_;
  torch::jit::Module step_, model_;
};

} // namespace inv::test
