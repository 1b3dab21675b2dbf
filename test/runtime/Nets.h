// Chains of coupling steps, through each door, with the same function in plain
// autograd.
#pragma once

#include "Steps.h"

namespace inv::test {

enum class Door {
  Operator,  ///< called directly
  Archive,   ///< in a model whose graph is built by hand, saved and loaded
  Rewritten, ///< in what inv-opt makes of a plain model (see canRewrite())
};

/// F of y = x + F(z).
struct Conditioner {
  std::string code; // method `conditioner(self, z, captures...)`
  std::function<at::Tensor(const at::Tensor& z, const Tensors& captures)> plain;
  std::function<Tensors()> captures; // new ones, for one step
  std::vector<int64_t> scratch;
  std::vector<std::pair<std::string, torch::jit::Module>> inner; // self.NAME
  bool rewritable = true; // or inv-opt leaves it alone
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
  /// Sets an attribute of every step.
  void set(const char* attribute, const c10::IValue& value);
  void setMode(const std::string& mode);
  /// The first.
  torch::jit::Module step();
  torch::jit::Module& model() { return model_; } // but Door::Operator
  /// Reads the captures of `model()` again.
  void refresh();

  /// What an error calls a step ("blocks.3: net.py:41"), and a capture of it
  /// ("capture 1 ('b')").
  std::string originOf(size_t step);
  std::string nameOf(size_t step, size_t capture);

  std::vector<Tensors> ofStep; // captures by step

private:
  torch::jit::Module emptyModel() const;
  torch::jit::Module builtModel() const;
  torch::jit::Module plainModel() const;
  /// Of the coupling that makes step number `i`.
  torch::jit::Module stepAt(size_t i);

  Door door_;
  Conditioner conditioner_;
  double xScale_, auxScale_;
  torch::jit::Module step_, model_;
};

/// A model of plain TorchScript by the source of its methods, and what inv-opt
/// makes of it.
torch::jit::Module modelOf(
    const std::string& code,
    const std::vector<std::pair<std::string, at::Tensor>>& parameters,
    const std::vector<std::pair<std::string, torch::jit::Module>>& inner = {});
torch::jit::Module rewrittenOf(const torch::jit::Module& model, int64_t steps);

} // namespace inv::test
