// Faults for the address and undefined-behaviour sanitizers to find, where our
// code and LibTorch meet: do they still look, and end the program?
//
//   inv_planted_fault overflow     writes behind a tensor's memory
//   inv_planted_fault use          reads a tensor's memory that was freed
//   inv_planted_fault leak         forgets a tensor
//   inv_planted_fault undefined    adds beyond the largest int
//   inv_planted_fault none         nothing of that
#include <ATen/ops/ones.h>

#include <cstring>
#include <iostream>
#include <limits>

namespace {

// Not known to the optimiser, which would leave out what it sees through.
volatile int64_t five = 5;
volatile int one = 1;

void overflow() {
  const at::Tensor t = at::ones({five});
  t.mutable_data_ptr<float>()[five * 4] = 1;
}

float useAfterFree() {
  at::Tensor t = at::ones({five * 1000});
  const float* data = t.const_data_ptr<float>();
  t.reset();
  return data[five];
}

void leak() {
  auto* forgotten = new at::Tensor(at::ones({five}));
  std::cout << forgotten->numel() << " forgotten\n";
  forgotten = nullptr;
}

int undefined() { return std::numeric_limits<int>::max() - 1 + one + one; }

} // namespace

int main(int argc, char** argv) {
  const char* how = argc > 1 ? argv[1] : "none";
  if (std::strcmp(how, "overflow") == 0)
    overflow();
  if (std::strcmp(how, "use") == 0)
    std::cout << useAfterFree() << "\n";
  if (std::strcmp(how, "leak") == 0)
    leak();
  if (std::strcmp(how, "undefined") == 0)
    std::cout << undefined() << "\n";
  std::cout << "went on to the end\n";
}
