#include "passes/analysis/MethodFacts.h"

#include "passes/support/Error.h"

#include <ATen/core/Tensor.h>

#include <fmt/format.h>

namespace inv::opt {

namespace {

/// Those that are named for the method; where there are none, those that are
/// named for no method.
std::vector<at::Tensor> samplesOf(const PassContext& context, bool& addressed) {
  std::vector<at::Tensor> own, common;
  const std::string prefix = context.method.name + ".";
  for (const SampleInput& sample : context.options.sampleInputs)
    if (sample.name.compare(0, prefix.size(), prefix) == 0)
      own.push_back(sample.value);
    else if (sample.name.find('.') == std::string::npos)
      common.push_back(sample.value);
  addressed = !own.empty();
  return addressed ? own : common;
}

/// Why the samples cannot be the method's arguments; empty where they can.
std::string misfit(const PassContext& context, size_t count) {
  const torch::jit::Graph& graph = *context.method.graph;
  if (graph.inputs().size() != count + 1)
    return fmt::format("{} takes {} input{}, and --input gives {}",
                       context.method.name, graph.inputs().size() - 1,
                       graph.inputs().size() == 2 ? "" : "s", count);
  for (size_t i = 1; i <= count; ++i)
    if (!c10::TensorType::get()->isSubtypeOf(*graph.inputs()[i]->type()))
      return fmt::format("input {} of {} is no tensor, and --input gives "
                         "tensors only",
                         i, context.method.name);
  return "";
}

std::optional<TrainingRun> runOnSamples(const PassContext& context) {
  const std::vector<c10::IValue> arguments = sampleArguments(context);
  if (arguments.empty())
    return std::nullopt;
  try {
    return TrainingRun(*context.method.graph, arguments, Streams::HandedOn);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    throw Error(ExitCode::BadInput,
                fmt::format("{} does not run on the sample inputs: {}",
                            context.method.name,
                            text.substr(0, text.find('\n'))));
  }
}

} // namespace

std::vector<c10::IValue> sampleArguments(const PassContext& context) {
  bool addressed = false;
  const std::vector<at::Tensor> samples = samplesOf(context, addressed);
  if (samples.empty())
    return {};
  if (const std::string why = misfit(context, samples.size()); !why.empty()) {
    if (addressed || context.model.methods.size() == 1)
      throw Error(ExitCode::BadInput, why);
    return {};
  }
  std::vector<c10::IValue> arguments{context.model.module._ivalue()};
  arguments.insert(arguments.end(), samples.begin(), samples.end());
  return arguments;
}

MethodFacts::MethodFacts(const PassContext& context)
    : run(runOnSamples(context)),
      flow(*context.method.graph, run ? &run->values() : nullptr,
           context.model.module._ivalue()),
      rules{flow, context.options, context.model.module._ivalue()} {}

} // namespace inv::opt
