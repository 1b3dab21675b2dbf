// Steps for the tests, made as the pass makes them: TorchScript classes with
// methods, Final constants and attributes as in inv/Abi.h. And ways to call the
// operators, eagerly or from a scripted method.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <string>
#include <vector>

namespace inv::test {

using Tensors = std::vector<at::Tensor>;

/// Where the tests of hazards make their tensors; the CPU unless they say so.
c10::DeviceType& testDevice();
/// Is there a GPU, and the library for it?
bool haveGpu();

/// What a step class says about itself.
struct StepSpec {
  std::string code; // the methods
  int64_t numStates = 1, numAux = 1, numSides = 0;
  std::string arithmetic;
  double xScale = 1, auxScale = 1;
  std::vector<int64_t> scratch;
  std::vector<int64_t> functionCaptures, functionExtras;
  std::string origin = "blocks.3: net.py:41";
};

/// A step of a class of its own, with further steps and parameters in it.
torch::jit::Module makeStep(
    const StepSpec& spec,
    const std::vector<std::pair<std::string, torch::jit::Module>>& inner = {},
    const std::vector<std::pair<std::string, at::Tensor>>& parameters = {});

/// Defines methods by their source, which may use the operators below, those of
/// the library, and `fork`.
void define(const torch::jit::Module& module, const std::string& code);

/// y = xScale * x + auxScale * tanh(linear(z, w, b)) (twice linear, so that it
/// saves something).
torch::jit::Module sumStep(double xScale = 1, double auxScale = 1);
/// Its conditioner, for references.
at::Tensor net(const at::Tensor& z, const at::Tensor& w, const at::Tensor& b);

Tensors coupling(const torch::jit::Module& step, const Tensors& x,
                 const Tensors& z, const Tensors& captures,
                 c10::IValue extras = {});
Tensors bijection(const torch::jit::Module& step, const Tensors& x,
                  const Tensors& captures, c10::IValue extras = {});
Tensors checkpoint(const torch::jit::Module& step, const Tensors& z,
                   const Tensors& captures, c10::IValue extras = {});
/// Any operator by its name.
c10::IValue callOp(const char* name, std::vector<c10::IValue> arguments);

/// As torch.utils.checkpoint, the reentrant one: `body` runs without grad mode,
/// and again in backward. Gradients of others than `inputs` are accumulated.
using TensorsToTensors = std::function<Tensors(const Tensors&)>;
Tensors checkpointed(TensorsToTensors body, const Tensors& inputs);

/// max |a - b| / max |b|.
double distance(const at::Tensor& a, const at::Tensor& b);
/// The same over lists; undefined matches undefined or zeros.
double distance(const Tensors& a, const Tensors& b);

/// A step against plain autograd: outputs bit for bit, gradients of `inputs`
/// within `bound`, plain and (within 100 times that) under create_graph.
void compare(const std::function<Tensors(const Tensors&)>& ours,
             const std::function<Tensors(const Tensors&)>& plain,
             const Tensors& inputs, double bound);

/// Fresh leaves that require grad, with the values of `t`.
Tensors leaves(const Tensors& t);
Tensors gradsOf(const Tensors& leaves);

/// A chain of coupling steps over two streams with its parameters, and the same
/// function in plain autograd.
struct Chain {
  torch::jit::Module step = sumStep();
  double xScale = 1, auxScale = 1;
  Tensors parameters; // w, b of each half-block

  Chain(int64_t blocks, int64_t width, at::ScalarType dtype, double xScale = 1,
        double auxScale = 1);
  /// Both streams after all blocks.
  Tensors run(const at::Tensor& x1, const at::Tensor& x2) const;
  Tensors plain(const at::Tensor& x1, const at::Tensor& x2) const;
  void zeroGrad();
};

// Operators for the code of steps, to look into replays:
//   invtest::note(Tensor t) -> Tensor        notes t's strides
//   invtest::fail_after(Tensor t, int n) -> Tensor   throws "planted" in the
//                                            calls after the n-th
//   invtest::fail_once(Tensor t) -> Tensor   throws "planted" in the call
//                                            that TestOps::failIn says
//   invtest::draw_once(Tensor t) -> Tensor   draws a number in its first call
//   invtest::by_switch(Tensor t) -> Tensor   2 t if oneDNN is switched on, else
//   3 t
//   invtest::by_mode(Tensor t) -> Tensor     2 t in deterministic mode, else 3
//   t
// These are trusted (inv/Runtime.h); invtest::unknown and invtest::trusted,
// both 2 t, are not.
struct TestOps {
  static std::vector<std::vector<int64_t>>& strides();
  /// The n-th call from now of fail_once, or of `mayFail`, throws; 0: none.
  /// Returns how many calls a failure was away, 0 for none.
  static int64_t failIn(int64_t n);
  static void mayFail();
  static void reset();
};

/// Every node, record and slot is gone.
void expectNothingAlive();

/// Message of the exception that `f` throws, "" if none.
std::string messageOf(const std::function<void()>& f);

} // namespace inv::test
