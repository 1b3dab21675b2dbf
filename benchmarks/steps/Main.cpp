// A chain of steps whose conditioner does next to nothing, or the same in plain
// autograd, run a number of times: for valgrind, which counts the instructions
// of the two functions below. benchmarks/count_instructions.py runs it.
//
//   inv-step-chain RUNTIME.so steps|plain CHAIN_LENGTH TIMES
#include "inv/Abi.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

namespace {

namespace abi = inv::abi;
using torch::jit::Module;

/// `inv` is the library's operators.
struct Resolver final : torch::jit::NativeResolver {
  std::shared_ptr<torch::jit::SugaredValue>
  resolveValue(const std::string& name, torch::jit::GraphFunction& function,
               const torch::jit::SourceRange& range) override {
    if (name == "inv")
      return std::make_shared<torch::jit::BuiltinModule>(name);
    return NativeResolver::resolveValue(name, function, range);
  }
};

/// y = x + (-z), as inv-opt writes it.
Module makeStep() {
  Module step(std::string(abi::kClassPrefix) + "0",
              std::make_shared<torch::jit::CompilationUnit>());
  auto type = step.type();
  type->addConstant(abi::kNumStates, 1);
  type->addConstant(abi::kNumAux, 1);
  type->addConstant(abi::kNumSides, 0);
  type->addConstant(abi::kArithmetic, std::string(abi::kScaledSum));
  step.register_attribute(abi::kMode, c10::StringType::get(),
                          std::string(abi::kInvert));
  step.register_attribute(abi::kPreserveRng, c10::BoolType::get(), true);
  step.register_attribute(abi::kOrigin, c10::StringType::get(),
                          std::string("Main.cpp"));
  step.register_attribute(abi::kMaxGrowth, c10::FloatType::get(), 32.0);
  step.define("def conditioner(self, z: Tensor):\n    return torch.neg(z)\n");
  return step;
}

Module makeChain(bool plain, int length) {
  Module chain("Chain", std::make_shared<torch::jit::CompilationUnit>());
  std::string code = "def forward(self, a: Tensor, b: Tensor):\n";
  if (!plain)
    chain.register_module("inv_step_0", makeStep());
  for (int i = 0; i < length; i++)
    code += plain
                ? "    y = a + torch.neg(b)\n"
                  "    a = b\n"
                  "    b = y\n"
                : "    s = inv.coupling(self.inv_step_0, [a], [b], [], None)\n"
                  "    a = s[1]\n"
                  "    b = s[0]\n";
  chain.define(code + "    return a, b\n", std::make_shared<Resolver>());
  return chain;
}

} // namespace

// What valgrind looks for.
extern "C" {
[[gnu::noinline]] void inv_bench_forward(Module* chain, const at::Tensor* a,
                                         const at::Tensor* b, c10::IValue* y) {
  *y = chain->forward({*a, *b});
}
[[gnu::noinline]] void inv_bench_backward(const at::Tensor* loss) {
  loss->backward();
}
}

namespace {

void run(int argc, char** argv) {
  if (argc != 5)
    throw std::runtime_error(
        "usage: inv-step-chain RUNTIME.so steps|plain CHAIN_LENGTH TIMES");
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr)
    throw std::runtime_error(dlerror());
  const bool plain = std::string(argv[2]) == "plain";
  const int length = std::atoi(argv[3]), times = std::atoi(argv[4]);
  at::set_num_threads(1);
  torch::jit::setGraphExecutorOptimize(false);
  Module chain = makeChain(plain, length);
  for (int i = 0; i < times; i++) {
    const at::Tensor a = at::ones({4, 4}).requires_grad_(),
                     b = at::ones({4, 4}).requires_grad_();
    c10::IValue y;
    inv_bench_forward(&chain, &a, &b, &y);
    const auto& streams = y.toTupleRef().elements();
    at::Tensor loss = streams[0].toTensor().sum() + streams[1].toTensor().sum();
    y = c10::IValue(); // as who calls a model: only the loss is left
    inv_bench_backward(&loss);
  }
}

} // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "inv-step-chain: %s\n", error.what());
    return 1;
  }
}
