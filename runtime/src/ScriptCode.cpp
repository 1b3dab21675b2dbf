#include "ScriptCode.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <memory>
#include <mutex>
#include <unordered_map>

namespace inv {
namespace {

namespace jit = torch::jit;

struct Entry {
  std::weak_ptr<jit::Graph> source;
  jit::Code code;
};

/// Codes by the graph they were made of. An address may be used again by
/// another graph, hence the weak pointer beside it.
class CodeCache {
public:
  jit::Code find(jit::Function& function) {
    auto& graphFunction = jit::toGraphFunction(function);
    graphFunction.ensure_defined();
    // Inlined, and specialised to the present autocast state; nothing else.
    std::shared_ptr<jit::Graph> graph = graphFunction.optimized_graph();
    std::lock_guard lock(mutex_);
    auto found = codes_.find(graph.get());
    if (found != codes_.end() && found->second.source.lock() == graph)
      return found->second.code;
    std::erase_if(codes_, [](auto& e) { return e.second.source.expired(); });
    // A copy, so that the cache does not keep the graph alive.
    Entry entry{graph, jit::Code(graph->copy(), function.name())};
    return codes_.insert_or_assign(graph.get(), std::move(entry))
        .first->second.code;
  }

private:
  std::mutex mutex_;
  std::unordered_map<const jit::Graph*, Entry> codes_;
};

} // namespace

void runFixed(jit::Function& function, jit::Stack& stack) {
  static auto* cache = new CodeCache; // used by nodes that outlive main()
  const jit::Code code = cache->find(function);
  // A finished interpreter state cannot be used again.
  jit::InterpreterState(code).run(stack);
}

} // namespace inv
