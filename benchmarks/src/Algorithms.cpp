#include "Algorithms.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/native/Resize.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace inv::bench {

namespace ag = torch::autograd;
using ag::AutogradContext;
using ag::variable_list;

namespace {

/// Gives the memory of `t` back, whoever else refers to it.
void freeStorage(const at::Tensor& t) {
  at::native::resize_bytes_cpu(t.storage().unsafeGetStorageImpl(), 0);
}

/// Fills a storage that freeStorage() emptied.
void refill(const at::Tensor& t, const at::Tensor& value) {
  at::NoGradGuard noGrad;
  t.storage().unsafeGetStorageImpl()->set_nbytes(value.storage().nbytes());
  t.storage().set_data_ptr(at::DataPtr(
      value.mutable_data_ptr(), new at::Tensor(value),
      [](void* tensor) { delete static_cast<at::Tensor*>(tensor); },
      value.device()));
}

at::Tensor leafOf(const at::Tensor& t) { return t.detach().requires_grad_(); }

/// Blocks are referred to by address through the untyped context.
const Block& blockOf(const AutogradContext& ctx) {
  return *reinterpret_cast<const Block*>(ctx.saved_data.at("block").toInt());
}

void keepBlock(AutogradContext& ctx, const Block& block) {
  ctx.saved_data["block"] = reinterpret_cast<int64_t>(&block);
}

struct Checkpoint : ag::Function<Checkpoint> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const Block* block) {
    keepBlock(*ctx, *block);
    ctx->save_for_backward({x});
    at::NoGradGuard noGrad;
    return (*block)(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor x = leafOf(ctx->get_saved_variables()[0]);
    at::Tensor y;
    {
      at::AutoGradMode grad(true);
      y = blockOf(*ctx)(x);
    }
    ag::backward({y}, {grads[0]});
    return {x.grad(), at::Tensor()};
  }
};

at::Tensor couple(const Block& block, const at::Tensor& x) {
  const auto halves = x.chunk(2, block.dim());
  const at::Tensor x1 = halves[0].contiguous(), x2 = halves[1].contiguous();
  const at::Tensor y1 = x1 + block.f()(x2);
  const at::Tensor y2 = x2 + block.g()(y1);
  return at::cat({y1, y2}, block.dim());
}

at::Tensor uncouple(const Block& block, const at::Tensor& y) {
  const auto halves = y.chunk(2, block.dim());
  const at::Tensor y1 = halves[0].contiguous(), y2 = halves[1].contiguous();
  const at::Tensor x2 = y2 - block.g()(y1);
  const at::Tensor x1 = y1 - block.f()(x2);
  return at::cat({x1, x2}, block.dim());
}

struct MemCnn : ag::Function<MemCnn> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const Block* block, at::TensorList weights,
                            bool keepInput) {
    (void)weights; // inputs of the function: their gradients are its results
    keepBlock(*ctx, *block);
    ctx->saved_data["keep"] = keepInput;
    at::NoGradGuard noGrad;
    at::Tensor y = couple(*block, x.detach());
    // Outside of autograd's checks, as MemCNN's ctx.inputs and ctx.outputs.
    ctx->saved_data["x"] = x.detach();
    ctx->saved_data["y"] = y.detach();
    if (!keepInput)
      freeStorage(x);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Block& block = blockOf(*ctx);
    const at::Tensor x = ctx->saved_data.at("x").toTensor();
    at::Tensor y = ctx->saved_data.at("y").toTensor();
    ctx->saved_data.erase("y");
    if (!ctx->saved_data.at("keep").toBool()) {
      at::NoGradGuard noGrad;
      at::Tensor inverted = uncouple(block, y);
      freeStorage(y);
      refill(x, inverted);
    }
    at::AutoGradMode grad(true);
    const at::Tensor leaf = leafOf(x);
    const at::Tensor again = couple(block, leaf);
    variable_list inputs{leaf};
    for (const at::Tensor& p : block.parameters())
      inputs.push_back(p);
    variable_list result =
        ag::grad({again}, inputs, {grads[0]}, /*retain_graph=*/std::nullopt);
    result.insert(result.begin() + 1, at::Tensor()); // the block
    result.emplace_back();                           // keepInput
    return result;
  }
};

struct RevTorch : ag::Function<RevTorch> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::vector<Block>* blocks) {
    ctx->saved_data["blocks"] = reinterpret_cast<int64_t>(blocks);
    at::NoGradGuard noGrad;
    at::Tensor y = x;
    for (const Block& block : *blocks) {
      const auto halves = y.chunk(2, block.dim());
      const at::Tensor y1 = halves[0] + block.f()(halves[1]);
      const at::Tensor y2 = halves[1] + block.g()(y1);
      y = at::cat({y1, y2}, block.dim());
    }
    ctx->saved_data["y"] = y.detach();
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto& blocks = *reinterpret_cast<const std::vector<Block>*>(
        ctx->saved_data.at("blocks").toInt());
    at::Tensor y = ctx->saved_data.at("y").toTensor(), dy = grads[0];
    ctx->saved_data.erase("y");
    grads.clear();
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block)
      undo(*block, y, dy);
    return {dy, at::Tensor()};
  }

private:
  static void undo(const Block& block, at::Tensor& y, at::Tensor& dy) {
    auto ys = y.chunk(2, block.dim()), dys = dy.chunk(2, block.dim());
    y.reset();
    dy.reset();
    at::Tensor x1, x2, dx1, dx2;
    const at::Tensor y1 = leafOf(ys[0]);
    {
      at::Tensor gy1;
      {
        at::AutoGradMode grad(true);
        gy1 = block.g()(y1);
      }
      ag::backward({gy1}, {dys[1]});
      at::NoGradGuard noGrad;
      x2 = ys[1] - gy1;
    }
    ys.pop_back();
    dx1 = dys[0] + y1.grad();
    y1.mutable_grad().reset();
    x2 = leafOf(x2);
    {
      at::Tensor fx2;
      {
        at::AutoGradMode grad(true);
        fx2 = block.f()(x2);
      }
      ag::backward({fx2}, {dx1});
      at::NoGradGuard noGrad;
      x1 = y1.detach() - fx2;
    }
    ys.clear();
    dx2 = dys[1] + x2.grad();
    x2.mutable_grad().reset();
    y = at::cat({x1, x2.detach()}, block.dim());
    dy = at::cat({dx1, dx2}, block.dim());
  }
};

constexpr double kSlope = 0.5; // of models.py

struct Pinverse : ag::Function<Pinverse> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const Block* block, at::TensorList weights,
                            bool keepInput) {
    (void)weights;
    keepBlock(*ctx, *block);
    ctx->saved_data["keep"] = keepInput;
    at::NoGradGuard noGrad;
    at::Tensor y = (*block)(x.detach());
    ctx->saved_data["x"] = x.detach();
    ctx->saved_data["y"] = y.detach();
    if (!keepInput)
      freeStorage(x);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Block& block = blockOf(*ctx);
    const at::Tensor x = ctx->saved_data.at("x").toTensor();
    const at::Tensor y = ctx->saved_data.at("y").toTensor();
    const Tensors parameters = block.parameters(); // weight, bias
    if (!ctx->saved_data.at("keep").toBool()) {
      at::NoGradGuard noGrad;
      const at::Tensor linear = at::leaky_relu(y, 1 / kSlope);
      refill(x,
             at::linear(linear - parameters[1], at::pinverse(parameters[0])));
    }
    at::AutoGradMode grad(true);
    const at::Tensor leaf = leafOf(x);
    const at::Tensor again = block(leaf);
    variable_list inputs{leaf};
    inputs.insert(inputs.end(), parameters.begin(), parameters.end());
    variable_list result =
        ag::grad({again}, inputs, {grads[0]}, /*retain_graph=*/std::nullopt);
    result.insert(result.begin() + 1, at::Tensor());
    result.emplace_back();
    return result;
  }
};

} // namespace

at::Tensor plain(const std::vector<Block>& blocks, at::Tensor x) {
  for (const Block& block : blocks)
    x = block(x);
  return x;
}

at::Tensor checkpointed(const std::vector<Block>& blocks, at::Tensor x) {
  for (const Block& block : blocks)
    x = Checkpoint::apply(x, &block);
  return x;
}

at::Tensor memcnn(const std::vector<Block>& blocks, at::Tensor x) {
  bool first = true; // the stem keeps its output, or needs it
  for (const Block& block : blocks) {
    x = MemCnn::apply(x, &block, at::TensorList(block.parameters()),
                      std::exchange(first, false));
  }
  return x;
}

at::Tensor revtorch(const std::vector<Block>& blocks, at::Tensor x) {
  return RevTorch::apply(x, &blocks);
}

at::Tensor pinverse(const std::vector<Block>& blocks, at::Tensor x) {
  bool first = true;
  for (const Block& block : blocks)
    x = Pinverse::apply(x, &block, at::TensorList(block.parameters()),
                        std::exchange(first, false));
  return x;
}

} // namespace inv::bench
