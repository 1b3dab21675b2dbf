// Builds one method of a step's class by copying nodes of the model's graph.
#pragma once

#include "passes/rules/Rule.h"

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace inv::opt {

/// Where a step's methods get what they do not compute: the attributes of an
/// annotated module are handed in as captures (tensors) and extras.
class AttributeSource {
public:
  virtual ~AttributeSource() = default;
  /// The value, in the model's graph, of attribute `path` ("lin.weight") of the
  /// module that `callNode` calls.
  virtual torch::jit::Value* attribute(torch::jit::Node* callNode,
                                       const std::vector<std::string>& path,
                                       const c10::TypePtr& type) = 0;
};

class MethodBuilder {
public:
  MethodBuilder(const c10::ClassTypePtr& self, AttributeSource& attributes);

  torch::jit::Graph& graph() { return *graph_; }
  std::shared_ptr<torch::jit::Graph> take() { return std::move(graph_); }

  /// Adds an input that stands for `outer`, a value of the model's graph; it is
  /// called as it is there, or `role` where it has no name.
  void addInput(torch::jit::Value* outer, const char* role);
  void bind(torch::jit::Value* outer, torch::jit::Value* inner) {
    map_[outer] = inner;
  }
  bool has(torch::jit::Value* outer) const { return map_.count(outer) != 0; }
  /// What stands for `outer` inside. Constants and constructions of lists and
  /// tuples are copied where they are asked for.
  torch::jit::Value* get(torch::jit::Value* outer);
  /// Copies a node (a call of an annotated module: its body) behind what is
  /// there.
  void copy(torch::jit::Node* n);
  /// The body of a method of the module that `callNode` calls.
  std::vector<torch::jit::Value*>
  inlineCall(torch::jit::Node* callNode, const std::string& method,
             const std::vector<torch::jit::Value*>& arguments);
  /// One value, or a tuple of them, becomes the result.
  void finish(const std::vector<torch::jit::Value*>& results);

private:
  std::shared_ptr<torch::jit::Graph> graph_;
  std::unordered_map<torch::jit::Value*, torch::jit::Value*> map_;
  AttributeSource& attributes_;
};

/// One attribute that a method of an annotated module reads.
struct AttributeRead {
  std::vector<std::string> path; ///< from the module
  c10::TypePtr type;
};

/// What `method` of the module that `callNode` calls reads, in order.
std::vector<AttributeRead> attributeReads(torch::jit::Node* callNode,
                                          const std::string& method);

/// Arguments `first` to `last` of a method that stands for `other` too get
/// names that are right for both: "weight" where it has f1_weight and
/// f2_weight. (The runtime names them in its errors.)
void shareNames(torch::jit::Function& method, const torch::jit::Graph& other,
                size_t first, size_t last);

/// A readable name for what `v` is called in the model ("x2.5" → "x2"), or ""
/// where it has none.
std::string readableName(const torch::jit::Value* v);

} // namespace inv::opt
