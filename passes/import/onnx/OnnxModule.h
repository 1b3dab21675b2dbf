// The module that initializers make: attributes under their names.
#pragma once

#include "passes/import/onnx/Lowering.h"

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/csrc/jit/api/module.h>

namespace inv::opt {

/// A module in the making, and the graph of its forward, which reads it.
/// "blocks.0.f.weight" is the attribute `weight` of the submodule `blocks.0.f`.
class OnnxModule : public ModuleAttributes {
public:
  explicit OnnxModule(const std::string& name);

  /// Adds a parameter or a buffer. Names that TorchScript cannot write are
  /// changed; returns the path that it got.
  std::string add(const std::string& initializer, const at::Tensor& value,
                  bool isParameter);
  /// Known to `read`, but added only when it is read.
  void offer(const std::string& initializer, const at::Tensor& value);

  torch::jit::Value* read(const std::string& initializer) override;
  torch::jit::Value* training() override;

  torch::jit::Module& module() { return root_; }
  std::shared_ptr<torch::jit::Graph> graph() { return graph_; }

private:
  struct Branch {
    torch::jit::Module module;
    torch::jit::Value* value = nullptr;          ///< where the graph read it
    std::map<std::string, std::string> children; ///< as named, as added
  };
  Branch& child(const std::string& path, const std::string& name);
  torch::jit::Value* valueOf(const std::string& path);
  torch::jit::Value* attribute(torch::jit::Value* object,
                               const std::string& name);

  std::shared_ptr<torch::jit::CompilationUnit> cu_;
  torch::jit::Module root_;
  std::shared_ptr<torch::jit::Graph> graph_;
  std::map<std::string, Branch> branches_;             ///< by path, "" the root
  std::unordered_map<std::string, std::string> paths_; ///< of initializers
  std::unordered_map<std::string, at::Tensor> offered_;
  std::unordered_map<std::string, torch::jit::Value*> reads_;
  torch::jit::Value* training_ = nullptr;
};

/// `name` as TorchScript can write it as an attribute's name.
std::string attributeNameOf(const std::string& name);
/// `name` as a value's or an argument's name.
std::string valueNameOf(const std::string& name);

} // namespace inv::opt
