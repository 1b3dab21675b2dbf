// Random programs through the default pipeline: forward bit for bit, gradients
// in float64, the steps that were planted. A failing program is reduced to the
// blocks that it takes, and written to a file. INVOPT_TEST_GRAPHS sets the
// number of programs (default 300), INVOPT_TEST_SEED the first seed.
#include "test/passes/random/Program.h"

#include "passes/Passes.h"
#include "passes/support/GraphUtil.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <optional>

namespace inv::opt::testing {
namespace {

using namespace torch::jit;
using Tensors = std::vector<at::Tensor>;

int64_t setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoll(text, nullptr, 10) : otherwise;
}

int64_t numberOfPrograms() {
  const char* level = std::getenv("INVOPT_TEST_LEVEL");
  const std::string tier = level ? level : "";
  return setting("INVOPT_TEST_GRAPHS", tier == "full"      ? 10000
                                       : tier == "default" ? 2000
                                                           : 300);
}

struct Trained {
  Tensors outputs, gradients; ///< gradients: of the input, then parameters
};

/// One training step of the method's graph, in float64.
Trained train(const Method& method, const Module& module, int64_t width) {
  Tensors leaves;
  at::manual_seed(11);
  leaves.push_back(at::randn({5, 2 * width}, at::kDouble).requires_grad_());
  for (const at::Tensor& p : module.parameters())
    leaves.push_back(p);
  Stack stack{module._ivalue(), leaves[0]};
  Code code(method.graph->copy(), "random");
  at::manual_seed(13); // of dropout
  InterpreterState(code).run(stack);
  Trained result;
  Tensors seeds;
  const auto add = [&](const at::Tensor& t) {
    result.outputs.push_back(t);
    seeds.push_back(at::arange(t.numel(), t.options()).cos().reshape_as(t));
  };
  for (const IValue& v : stack)
    if (v.isTensor())
      add(v.toTensor());
    else
      for (const IValue& element : v.toTupleRef().elements())
        add(element.toTensor());
  result.gradients = torch::autograd::grad(result.outputs, leaves, seeds, false,
                                           false, /*allow_unused=*/true);
  for (at::Tensor& t : result.outputs)
    t = t.detach();
  return result;
}

std::string sizeOfDifference(const at::Tensor& a, const at::Tensor& b) {
  const double norm = std::max(a.norm().item<double>(), 1e-30);
  return fmt::format("{:.2g}", (a - b).norm().item<double>() / norm);
}

/// Operators that only the planted networks have and that are still in the
/// method: a coupling that was not found. (Two couplings may share a step, so
/// their number says less.)
std::string whatIsLeft(const Method& method, const Program& program) {
  for (const Node* node : allNodes(method.graph->block()))
    for (const char* name : {"softmax", "gelu", "relu", "silu", "dropout",
                             "sigmoid", "exp", "clamp", "atan"})
      if (node->kind() == Symbol::aten(name))
        return fmt::format("a planted {} is not in a step", name);
  int found = 0;
  for (const StepReport& step : method.steps)
    found += step.kind == "coupling";
  if (found > program.couplings() || (found == 0) != (program.couplings() == 0))
    return fmt::format("{} couplings found, {} planted", found,
                       program.couplings());
  return "";
}

/// LibTorch's interpreter fails on some programs with two loops behind each
/// other (it moves a value into the second loop before it runs the first, which
/// reads it). With these there is nothing to compare.
std::optional<Trained> trainOriginal(const Model& model, int64_t width) {
  try {
    return train(model.methods[0], model.module, width);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

/// What is wrong with the program; empty if nothing is.
std::string faultOf(const Program& program, bool* runs = nullptr) {
  try {
    const Model original = modelOf(program);
    const std::optional<Trained> reference =
        trainOriginal(original, program.width);
    if (runs)
      *runs = reference.has_value();
    if (!reference)
      return "";
    Model model = modelOf(program);
    Options options;
    options.forceSteps = true;
    Remarks remarks;
    PipelineOptions pipeline;
    for (const std::string& name : defaultPipeline())
      pipeline.passes.push_back(findPass(name));
    pipeline.onlyWithSteps = pipeline.verifyEach = true;
    runPipeline(model, options, pipeline, remarks);
    const Trained& a = *reference;
    const Trained b = train(model.methods[0], model.module, program.width);
    for (size_t i = 0; i < a.outputs.size(); ++i)
      if (!at::equal(a.outputs[i], b.outputs[i]) &&
          (a.outputs[i] - b.outputs[i]).abs().max().item<double>() > 1e-14)
        return fmt::format("output {} differs", i);
    for (size_t i = 0; i < a.gradients.size(); ++i) {
      if (a.gradients[i].defined() != b.gradients.at(i).defined())
        return fmt::format("gradient {} is there in one only", i);
      if (!a.gradients[i].defined())
        continue;
      const double norm = a.gradients[i].norm().item<double>();
      const double distance =
          (a.gradients[i] - b.gradients[i]).norm().item<double>();
      if (!(distance <= 1e-6 * norm + 1e-12))
        return fmt::format("gradient {} is off by {}", i,
                           sizeOfDifference(a.gradients[i], b.gradients[i]));
    }
    if (!program.hasNearMiss())
      return whatIsLeft(model.methods[0], program);
  } catch (const std::exception& error) {
    const std::string message = error.what();
    return "error: " + message.substr(0, message.find('\n'));
  }
  return "";
}

/// Without every block that the failure does not need.
Program reduced(Program program) {
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (size_t i = 0; i < program.blocks.size(); ++i) {
      Program candidate = program;
      candidate.blocks.erase(candidate.blocks.begin() + std::ptrdiff_t(i));
      if (faultOf(candidate).empty())
        continue;
      program = std::move(candidate);
      smaller = true;
      break;
    }
  }
  return program;
}

std::string save(const Program& program) {
  std::string path = fmt::format("random-{}.ir", program.seed);
  const Model model = modelOf(program);
  std::ofstream(path) << "# " << faultOf(program) << "\n"
                      << model.methods[0].graph->toString(false);
  return path;
}

TEST(RandomPrograms, TrainAsBeforeWithEveryPlantedStep) {
  const int64_t first = setting("INVOPT_TEST_SEED", 1);
  const int64_t count = numberOfPrograms();
  int failures = 0, couplings = 0, unusable = 0;
  for (int64_t seed = first; seed < first + count && failures < 5; ++seed) {
    const Program program = randomProgram(uint64_t(seed));
    bool runs = true;
    const bool holds = faultOf(program, &runs).empty();
    unusable += !runs;
    if (runs)
      couplings += program.couplings();
    if (holds)
      continue;
    ++failures;
    const Program small = reduced(program);
    ADD_FAILURE() << "seed " << seed << ": " << faultOf(small) << " (saved as "
                  << save(small) << ")\n"
                  << small.source();
  }
  // The generator does what it is for.
  EXPECT_GT(couplings, count);
  EXPECT_LT(unusable, count / 10 + 1);
  std::cout << count << " programs (" << unusable
            << " that LibTorch does not run), " << couplings
            << " couplings planted\n";
}

// The check can fail: a program whose claim is wrong is noticed and reduced.
TEST(RandomPrograms, APlantedBlockThatIsNoneIsNoticedAndReduced) {
  Program program;
  program.seed = 1;
  program.width = 3;
  program.weights = 2;
  program.epilogue = "return a.sin(), b.cos()";
  program.blocks = {
      {"additive", "a = a + torch.tanh(b @ self.w0)\n", 1, false},
      {"lie", "a = torch.relu(a)\n", 1, false},
      {"additive", "b = b + torch.tanh(a @ self.w1)\n", 1, false}};
  EXPECT_EQ(faultOf(program), "a planted relu is not in a step");
  const Program small = reduced(program);
  ASSERT_EQ(small.blocks.size(), 1u);
  EXPECT_EQ(small.blocks[0].kind, "lie");
}

} // namespace
} // namespace inv::opt::testing
