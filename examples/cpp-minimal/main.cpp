// Trains a rewritten model. Nothing here differs from training the original:
// linking InvOpt::runtime is all that the archive needs.
#include <cstdio>

#include <torch/optim/sgd.h>
#include <torch/script.h>

int main(int argc, char** argv) try {
  if (argc != 2)
    return std::fprintf(stderr, "usage: minimal MODEL.inv.pt\n"), 2;
  torch::jit::Module model = torch::jit::load(argv[1]);
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : model.parameters())
    parameters.push_back(parameter);
  torch::optim::SGD optimizer(parameters, 0.05);
  const at::Tensor images = at::randn({32, 1, 8, 8});
  const at::Tensor labels = at::randint(10, {32}, at::kLong);
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    at::Tensor scores = model.forward({images}).toTensor();
    at::Tensor loss = at::cross_entropy_loss(scores, labels);
    loss.backward();
    optimizer.step();
    std::printf("step %d  loss %.4f\n", step, loss.item<double>());
  }
} catch (const c10::Error& error) {
  std::fprintf(stderr, "minimal: %s\n", error.what_without_backtrace());
  return 1;
}
