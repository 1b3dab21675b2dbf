// A user's training program, out of our tree. Names no function of the runtime:
// linking InvOpt::runtime alone must register its operators.
//
//   consumer                         the operators are there
//   consumer ORIGINAL.pt REWRITTEN.pt
//                                    both train from the same weights on the
//                                    same data: losses and weights agree, and
//                                    the rewritten one did run its steps
#include "inv/Abi.h"

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/script.h>

namespace {

void require(bool holds, const std::string& what) {
  if (!holds)
    throw std::runtime_error(what);
}

bool operatorExists(const std::string& name) {
  return !torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name))
              .empty();
}

/// Inputs and labels of a small problem: images of the class's mean plus noise.
struct Batch {
  at::Tensor images, labels;
};

Batch makeBatch() {
  at::manual_seed(1);
  at::Tensor labels = at::arange(40) % 10;
  at::Tensor means = at::rand({10, 1, 8, 8});
  at::Tensor images = means.index_select(0, labels);
  return {images + 0.1 * at::rand_like(images), labels};
}

/// Trains for `steps` steps of plain gradient descent; the losses, in order.
std::vector<double> train(torch::jit::Module& model, const Batch& batch,
                          int steps) {
  std::vector<double> losses;
  model.train();
  for (int i = 0; i < steps; ++i) {
    for (const at::Tensor& p : model.parameters())
      p.mutable_grad() = at::Tensor();
    at::Tensor logits = model.forward({batch.images}).toTensor();
    at::Tensor loss = at::nll_loss(at::log_softmax(logits, 1), batch.labels);
    loss.backward();
    at::NoGradGuard noGrad;
    for (const at::Tensor& p : model.parameters())
      if (p.grad().defined())
        p.sub_(p.grad(), 0.05);
    losses.push_back(loss.item<double>());
  }
  return losses;
}

int stepsIn(const torch::jit::Module& model) {
  int count = 0;
  for (const auto& child : model.named_children())
    count += child.name.rfind(inv::abi::kStepPrefix, 0) == 0;
  return count;
}

void compare(const std::string& originalPath,
             const std::string& rewrittenPath) {
  // Both run eager's formulas; the profiling executor's differ from call to
  // call.
  torch::jit::setGraphExecutorOptimize(false);
  torch::jit::Module original = torch::jit::load(originalPath);
  torch::jit::Module rewritten = torch::jit::load(rewrittenPath);
  require(stepsIn(original) == 0, "the original has steps");
  require(stepsIn(rewritten) > 0, "the rewritten model has no steps");

  Batch batch = makeBatch();
  std::vector<double> a = train(original, batch, 30);
  std::vector<double> b = train(rewritten, batch, 30);
  std::printf("loss: %.6f -> %.6f, rewritten %.6f -> %.6f (%d steps)\n",
              a.front(), a.back(), b.front(), b.back(), stepsIn(rewritten));
  require(a.front() == b.front(), "the first losses differ");
  require(a.back() < 0.5 * a.front(), "the original does not learn");
  require(std::abs(a.back() - b.back()) <= 1e-3 * a.front(),
          "the losses after training differ");

  auto trained = rewritten.named_parameters();
  size_t compared = 0;
  for (const auto& p : original.named_parameters())
    for (const auto& q : trained)
      if (p.name == q.name) {
        ++compared;
        require(at::allclose(p.value, q.value, 1e-3, 1e-4),
                "weights differ: " + p.name);
      }
  require(compared == original.named_parameters().size(),
          "names of parameters differ");
}

} // namespace

int main(int argc, char** argv) {
  try {
    for (const char* name : {inv::abi::kCoupling, "inv::stats"})
      require(operatorExists(name), std::string("no operator ") + name);
    require(argc == 1 || argc == 3, "usage: consumer [ORIGINAL REWRITTEN]");
    if (argc == 3)
      compare(argv[1], argv[2]);
    std::printf("consumer: all is well\n");
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "consumer: %s\n", e.what());
    return 1;
  }
}
