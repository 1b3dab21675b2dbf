#include "passes/import/onnx/Functions.h"

#include "passes/support/Error.h"

#include <map>
#include <string>

#include <fmt/format.h>

namespace inv::opt {

namespace {

constexpr uint64_t kMostNodes = 1000000;
constexpr int kDeepest = 200; ///< functions that call each other, or graphs

class Counter {
public:
  explicit Counter(const onnx::ModelProto& model) {
    for (const auto& function : model.functions()) {
      std::string id =
          idOf(function.domain(), function.name(), function.overload());
      if (!functions_.emplace(id, State{&function}).second)
        throw Error(ExitCode::BadInput,
                    fmt::format("the function {} is defined twice", id));
    }
  }

  template <typename Nodes> uint64_t count(const Nodes& nodes, int depth) {
    if (depth > kDeepest)
      throw Error(ExitCode::BadInput,
                  fmt::format("functions and graphs are nested more than {} "
                              "deep",
                              kDeepest));
    uint64_t all = 0;
    for (const auto& node : nodes) {
      all += 1 + countCall(node, depth);
      for (const auto& attribute : node.attribute()) {
        if (attribute.has_g())
          all += count(attribute.g().node(), depth + 1);
        for (const auto& graph : attribute.graphs())
          all += count(graph.node(), depth + 1);
      }
      if (all > kMostNodes)
        throw Error(ExitCode::BadInput,
                    fmt::format("has more than {} nodes, its functions inlined",
                                kMostNodes));
    }
    return all;
  }

private:
  struct State {
    const onnx::FunctionProto* function = nullptr;
    bool open = false, done = false;
    uint64_t nodes = 0;
  };

  static std::string idOf(const std::string& domain, const std::string& name,
                          const std::string& overload) {
    std::string id =
        domain.empty() ? name : fmt::format("{}::{}", domain, name);
    return overload.empty() ? id : fmt::format("{}:{}", id, overload);
  }

  uint64_t countCall(const onnx::NodeProto& node, int depth) {
    std::string id = idOf(node.domain(), node.op_type(), node.overload());
    auto it = functions_.find(id);
    if (it == functions_.end())
      return 0;
    State& state = it->second;
    if (state.open)
      throw Error(ExitCode::BadInput,
                  fmt::format("the function {} calls itself", id));
    if (!state.done) {
      state.open = true;
      state.nodes = count(state.function->node(), depth + 1);
      state.open = false;
      state.done = true;
    }
    return state.nodes;
  }

  std::map<std::string, State> functions_;
};

} // namespace

void checkFunctions(const onnx::ModelProto& model) {
  Counter counter(model);
  counter.count(model.graph().node(), 0);
  // Those that nobody calls are checked and read as well.
  for (const auto& function : model.functions())
    counter.count(function.node(), 0);
}

} // namespace inv::opt
