// A race for the thread sanitizer to find, where LibTorch calls our code: a
// suppression that is too wide would hide it, and others with it.
//
//   inv_planted_race operator   in the kernel of an operator
//   inv_planted_race node       in an autograd node, in backward
//   inv_planted_race guarded    neither: both hold a lock
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <iostream>
#include <mutex>
#include <thread>

namespace {

bool guarded = false;
std::mutex mutex;
int64_t counter = 0; // guarded, or not, by mutex
std::atomic<int64_t> arrived = 0;

/// Two threads are here at once, or the locks that autograd takes in between
/// would put the one's access before the other's. (A relaxed order synchronises
/// nothing.)
void count() {
  const int64_t both = arrived.fetch_add(1, std::memory_order_relaxed) / 2 + 1;
  while (arrived.load(std::memory_order_relaxed) < 2 * both)
    std::this_thread::yield();
  std::unique_lock lock(mutex, std::defer_lock);
  if (guarded)
    lock.lock();
  ++counter;
}

at::Tensor counting(const at::Tensor& t) {
  count();
  return t;
}

struct CountingNode : torch::autograd::Node {
  torch::autograd::variable_list
  apply(torch::autograd::variable_list&& grads) override {
    count();
    return std::move(grads);
  }
};

void callOperator() {
  auto op = c10::Dispatcher::singleton()
                .findSchemaOrThrow("invrace::count", "")
                .typed<at::Tensor(const at::Tensor&)>();
  op.call(at::ones({1}));
}

void runBackward() {
  const at::Tensor x = at::ones({1}).requires_grad_();
  at::Tensor y = at::ones({1});
  auto node = std::shared_ptr<CountingNode>(new CountingNode,
                                            torch::autograd::deleteNode);
  node->set_next_edges({torch::autograd::impl::gradient_edge(x)});
  torch::autograd::create_gradient_edge(y, node);
  torch::autograd::backward({y}, {at::ones({1})});
}

} // namespace

TORCH_LIBRARY(invrace, m) { m.def("count(Tensor t) -> Tensor", &counting); }

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "";
  guarded = std::strcmp(how, "guarded") == 0;
  const auto body = [&] {
    for (int i = 0; i < 100; i++) {
      if (std::strcmp(how, "node") != 0)
        callOperator();
      if (std::strcmp(how, "operator") != 0)
        runBackward();
    }
  };
  std::thread one(body), two(body);
  one.join();
  two.join();
  std::cout << counter << " counted\n";
}
