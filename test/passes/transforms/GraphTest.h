// Shared by the tests of transforms: graphs from IR text or from TorchScript
// source, run and differentiated as they are (no optimiser).
#pragma once

#include "passes/Passes.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <memory>
#include <string>
#include <vector>

namespace inv::opt::testing {

using GraphPtr = std::shared_ptr<torch::jit::Graph>;

inline GraphPtr parse(const std::string& text) {
  auto graph = std::make_shared<torch::jit::Graph>();
  torch::jit::parseIR(text, graph.get());
  return graph;
}

/// The inlined graph of `forward` of `module`.
inline GraphPtr inlined(const torch::jit::Module& module) {
  auto graph = module.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  return graph;
}

/// Runs one pass on the graph; also checks that the graph is well formed, that
/// "unchanged" is true, and that a second run finds nothing to do.
inline bool runPass(bool (*pass)(PassContext&), const GraphPtr& graph,
                    torch::jit::Module module = torch::jit::Module("M"),
                    const Options& options = {}) {
  Model model;
  model.module = module;
  model.methods.emplace_back();
  model.methods[0].name = "forward";
  model.methods[0].graph = graph;
  Remarks remarks;
  PassContext ctx{model, model.methods[0], options, remarks};
  const std::string before = graph->toString(false);
  const bool changed = pass(ctx);
  graph->lint();
  const std::string after = graph->toString(false);
  if (!changed) {
    EXPECT_EQ(before, after);
  }
  EXPECT_FALSE(pass(ctx)) << "a second run changed\n"
                          << after << "to\n"
                          << graph->toString(false);
  return changed;
}

inline int count(const GraphPtr& graph, const std::string& kind) {
  int found = 0;
  std::vector<torch::jit::Block*> blocks{graph->block()};
  while (!blocks.empty()) {
    auto* block = blocks.back();
    blocks.pop_back();
    for (auto* node : block->nodes()) {
      found += node->kind().toQualString() == kind;
      for (auto* inner : node->blocks())
        blocks.push_back(inner);
    }
  }
  return found;
}

inline torch::jit::Node* first(const GraphPtr& graph, const std::string& kind) {
  for (auto* node : graph->nodes())
    if (node->kind().toQualString() == kind)
      return node;
  return nullptr;
}

/// Outputs (a tuple's elements), then the gradients of the inputs that are
/// floating-point tensors.
inline std::vector<at::Tensor>
evaluate(const GraphPtr& graph, const std::vector<at::Tensor>& inputs,
         const torch::jit::Module* self = nullptr) {
  torch::jit::Stack stack;
  if (self)
    stack.emplace_back(self->_ivalue());
  std::vector<at::Tensor> leaves;
  for (const auto& input : inputs) {
    if (!input.is_floating_point()) {
      stack.emplace_back(input);
      continue;
    }
    leaves.push_back(input.detach().clone().requires_grad_());
    // Not the leaf itself, so that writes to inputs are legal.
    stack.emplace_back(leaves.back().clone());
  }
  torch::jit::Code code(graph->copy(), "test");
  at::manual_seed(7);
  torch::jit::InterpreterState(code).run(stack);
  std::vector<at::Tensor> results, made, seeds;
  for (const auto& value : stack) {
    if (value.isTensor())
      results.push_back(value.toTensor());
    else if (value.isTuple())
      for (const auto& element : value.toTupleRef().elements())
        results.push_back(element.toTensor());
  }
  for (auto& result : results)
    if (result.requires_grad()) {
      made.push_back(result);
      seeds.push_back(at::arange(result.numel(), result.options())
                          .reshape(result.sizes())
                          .cos()
                          .detach());
    }
  std::vector<at::Tensor> all;
  all.reserve(results.size() + leaves.size());
  for (auto& result : results)
    all.push_back(result.detach().clone());
  if (!made.empty())
    for (auto& gradient : torch::autograd::grad(made, leaves, seeds, true,
                                                false, /*allow_unused=*/true))
      all.push_back(gradient.defined() ? gradient : at::zeros({}));
  return all;
}

/// Both graphs give the same bits, forward and backward.
inline void expectSame(const GraphPtr& a, const GraphPtr& b,
                       const std::vector<at::Tensor>& inputs,
                       const torch::jit::Module* self = nullptr) {
  const auto x = evaluate(a, inputs, self), y = evaluate(b, inputs, self);
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_TRUE(at::equal(x[i], y[i])) << "value " << i << " of\n"
                                       << a->toString(false) << "and\n"
                                       << b->toString(false);
}

} // namespace inv::opt::testing
