#include "passes/analysis/Blocks.h"

#include "passes/support/Remarks.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <unordered_map>

namespace inv::opt {

namespace {

/// "a.b" of "a.b.c"; the next longer prefix of `path` than `prefix`.
std::string longer(const std::string& prefix, const std::string& path) {
  const size_t from = prefix.empty() ? 0 : prefix.size() + 1;
  return path.substr(0, path.find('.', from));
}

/// The longest path that all begin with.
std::string common(const std::string& a, const std::string& b) {
  std::string prefix;
  while (prefix != a && prefix != b) {
    const std::string next = longer(prefix, a);
    if (next != longer(prefix, b))
      break;
    prefix = next;
  }
  return prefix;
}

struct Module {
  bool computes = false;   ///< has nodes of its own that do more than move
  bool hasStep = false;    ///< some step needs it whole
  bool holdsSteps = false; ///< steps lie in its submodules
};

/// More than moving values about.
bool computes(const Dataflow& flow, const NodeInfo& info) {
  return !info.glue && !info.view && info.node->kind().is_aten() &&
         info.node->kind() != torch::jit::aten::cat &&
         info.node->kind() != torch::jit::aten::stack &&
         std::any_of(info.results.begin(), info.results.end(),
                     [&](ValueId v) { return flow.value(v).isActivation(); });
}

} // namespace

std::vector<std::string> blockPaths(const std::vector<const Dataflow*>& flows,
                                    const std::vector<int32_t>& stepOf) {
  std::vector<std::string> paths(stepOf.size());
  std::unordered_map<std::string, Module> modules;
  std::unordered_map<int32_t, std::string> steps; // the path that holds it
  size_t n = 0;
  for (const Dataflow* flow : flows)
    for (const NodeInfo& info : flow->nodes()) {
      paths[n] = modulePathOf(info.node);
      modules[paths[n]].computes |= computes(*flow, info);
      if (stepOf[n] >= 0) {
        auto [at, fresh] = steps.insert({stepOf[n], paths[n]});
        if (!fresh)
          at->second = common(at->second, paths[n]);
      }
      ++n;
    }
  for (const auto& [step, path] : steps) {
    modules[path].hasStep = true;
    for (std::string prefix; prefix != path; prefix = longer(prefix, path))
      modules[prefix].holdsSteps = true;
  }
  std::unordered_map<std::string, std::string> blocks;
  for (std::string& path : paths) {
    auto [at, fresh] = blocks.insert({path, ""});
    if (fresh && !path.empty()) {
      std::string block = longer("", path);
      while (block != path) {
        const Module& m = modules[block];
        if (m.hasStep || (m.computes && !m.holdsSteps))
          break;
        block = longer(block, path);
      }
      at->second = block;
    }
    path = at->second;
  }
  return paths;
}

} // namespace inv::opt
