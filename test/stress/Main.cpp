// Random programs with random hazards at once, each compared with plain
// autograd: layouts, modes, branches, partial, repeated and double backward,
// hooks, changes in place, runs inside of other nodes, exceptions and failing
// allocations at any moment, several threads. Each ends in plain autograd's
// gradients or in an error that the documentation names.
//
//   inv_stress                       runs for 5 s
//   inv_stress --seconds 60
//   inv_stress --seed 17             that program alone
//   inv_stress --thread-seed 17      one of those that run on threads, alone
//
// Prints how many there were of each end. The first that ends otherwise is
// described and ends the program with exit code 1.
#include "Program.h"

#include "../support/FailingAllocator.h"

#include "inv/Runtime.h"

#include <torch/csrc/autograd/autograd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <iostream>
#include <thread>

namespace inv::test {
namespace {

struct Counts {
  int64_t right = 0;    ///< plain autograd's gradients
  int64_t changed = 0;  ///< error: something was changed in place
  int64_t released = 0; ///< error: a second backward without retain_graph
  int64_t plainToo = 0; ///< ... of these errors, plain autograd's as well
  int64_t alone = 0;    ///< the gradients, where plain autograd refused
  int64_t refused = 0;  ///< both refused, with the same words
  int64_t faults = 0;   ///< a failed allocation reached the caller
  int64_t throws = 0;   ///< an exception of a conditioner or a hook did
  int64_t programs() const {
    return right + changed + released + alone + refused;
  }
};

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

/// max |a - b| / max |b|, over all tensors. The gradient of a bias before a
/// batch norm is 0 but for rounding; so a tensor counts as no smaller than a
/// thousandth of the largest.
double distanceOfAll(const Tensors& ours, const Tensors& plain) {
  if (ours.size() != plain.size())
    return INFINITY;
  const auto size = [](const at::Tensor& t) {
    return t.defined() && t.numel() > 0 ? t.abs().max().item<double>() : 0;
  };
  double largest = 0, worst = 0;
  for (const at::Tensor& t : plain)
    largest = std::max(largest, size(t));
  for (size_t i = 0; i < ours.size(); i++) {
    const double difference =
        ours[i].defined() && plain[i].defined()
            ? size(ours[i] - plain[i])
            : size(ours[i].defined() ? ours[i] : plain[i]);
    const double d = difference / std::max(size(plain[i]), 1e-3 * largest);
    if (difference != 0 && !(d <= worst)) // NaN counts as far
      worst = d;
  }
  return worst;
}

/// What autograd's queue of this thread still holds after an error goes with
/// its next run.
std::string whatIsAlive() {
  at::ones({}).requires_grad_().sum().backward();
  const Stats s = stats();
  if (s.liveNodes == 0 && s.liveRecords == 0 && s.liveSlots == 0)
    return {};
  return std::to_string(s.liveNodes) + " nodes, " +
         std::to_string(s.liveRecords) + " records and " +
         std::to_string(s.liveSlots) + " slots are left";
}

/// Runs one program both ways; a sentence if that ended as it must not.
std::string check(uint64_t seed, const Allowed& allowed, Counts& counts) {
  Program original(seed, allowed), rewritten(seed, allowed);
  Tensors plain, ours;
  const std::string reference =
      messageOf([&] { plain = original.run(Way::Plain); });
  const std::string message =
      messageOf([&] { ours = rewritten.run(Way::Steps); });
  if (message.empty()) {
    // What plain autograd refuses is right with the values of the forward.
    if (!reference.empty())
      plain = Program(seed, allowed).run(Way::PlainWithCopies);
    (reference.empty() ? counts.right : counts.alone)++;
    const double d = distanceOfAll(ours, plain);
    return d <= original.bound() ? std::string()
                                 : "off by " + std::to_string(d);
  }
  counts.plainToo += reference.empty() ? 0 : 1;
  if (original.changes() &&
      contains(message, "modified by an inplace operation")) {
    counts.changed++;
    return {};
  }
  if (original.releases() &&
      contains(message, "Trying to backward through the graph a second time")) {
    counts.released++;
    return {};
  }
  if (message.substr(0, message.find('\n')) ==
      reference.substr(0, reference.find('\n'))) {
    counts.refused++;
    return {};
  }
  return "error: " + message;
}

/// Runs our side with a fault at a random moment, an allocation that fails or
/// an exception in a conditioner or a hook, and then all without.
std::string checkFault(uint64_t seed, const Allowed& allowed, Counts& counts) {
  auto& allocator = FailingAllocator::installed();
  Random random(seed + 1);
  Program program(seed, allowed);
  const bool throws = random.chance(3);
  constexpr size_t kMostAllocations = 400, kMostCalls = 20;
  if (throws)
    TestOps::failIn(static_cast<int64_t>(1 + random.pick(kMostCalls)));
  else
    allocator.countdown =
        static_cast<int64_t>(1 + random.pick(kMostAllocations));
  const std::string message = messageOf([&] { program.run(Way::Steps); });
  const bool reached =
      throws ? TestOps::failIn(0) == 0 : allocator.countdown.exchange(0) == 0;
  if (!reached)
    return {};
  (throws ? counts.throws : counts.faults)++;
  if (!contains(message, throws ? "planted" : "planted: out of memory"))
    return "a planted fault did not reach the caller: " + message;
  Counts ignored;
  const std::string wrong = check(seed, allowed, ignored);
  return wrong.empty() ? wrong : "after a planted fault: " + wrong;
}

/// Several programs at once, each on a thread of its own.
std::string checkThreads(uint64_t seed, Counts& counts) {
  constexpr size_t kThreads = 4;
  std::vector<Counts> each(kThreads);
  std::vector<std::string> ends(kThreads);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < kThreads; k++)
    threads.emplace_back([&, k] {
      ends[k] = check(seed * kThreads + k, {.dropout = false}, each[k]);
    });
  for (std::thread& t : threads)
    t.join();
  for (size_t k = 0; k < kThreads; k++) {
    const uint64_t own = seed * kThreads + k;
    counts.right += each[k].right;
    counts.changed += each[k].changed;
    counts.released += each[k].released;
    counts.plainToo += each[k].plainToo;
    counts.alone += each[k].alone;
    counts.refused += each[k].refused;
    if (!ends[k].empty())
      return "a thread's program, --thread-seed " + std::to_string(own) + ": " +
             ends[k];
  }
  return {};
}

std::string checkAll(uint64_t seed, Counts& counts) {
  const Allowed all;
  if (std::string wrong = check(seed, all, counts); !wrong.empty())
    return wrong;
  if (std::string wrong = whatIsAlive(); !wrong.empty())
    return wrong;
  if (seed % 2 == 0)
    if (std::string wrong = checkFault(seed, all, counts); !wrong.empty())
      return wrong;
  if (seed % 16 == 0)
    if (std::string wrong = checkThreads(seed, counts); !wrong.empty())
      return wrong;
  return whatIsAlive();
}

/// Prints what a program is made of.
int fail(uint64_t seed, const Allowed& allowed, const std::string& wrong) {
  Program program(seed, allowed);
  messageOf([&] { program.run(Way::Plain); });
  std::cout << "seed " << seed << ": " << wrong << "\n"
            << program.describe() << "\n";
  return 1;
}

int runThreads(uint64_t seed) {
  Counts counts;
  const std::string wrong = check(seed, {.dropout = false}, counts);
  return wrong.empty() ? 0 : fail(seed, {.dropout = false}, wrong);
}

int run(int64_t seconds, int64_t only) {
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  Counts counts;
  uint64_t seed = only < 0 ? 1 : static_cast<uint64_t>(only);
  do {
    const std::string wrong = checkAll(seed, counts);
    if (!wrong.empty())
      return fail(seed, {}, wrong);
    seed++;
  } while (only < 0 && std::chrono::steady_clock::now() < end);
  std::cout << counts.programs() << " programs: " << counts.right
            << " ended in plain autograd's gradients, " << counts.changed
            << " in the error of a change in place, " << counts.released
            << " in that of a second backward (" << counts.plainToo
            << " of these errors were plain autograd's too), " << counts.alone
            << " in the right gradients where plain autograd refused, "
            << counts.refused << " were refused by both with the same words; "
            << counts.faults
            << " further runs ended in a planted failure of an allocation, "
            << counts.throws
            << " in a planted exception of a conditioner or a hook, and were "
               "right when run again\n";
  return counts.programs() > 0 ? 0 : 1;
}

} // namespace
} // namespace inv::test

int main(int argc, char** argv) {
  int64_t seconds = 5, seed = -1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--seconds") == 0)
      seconds = std::atoll(argv[i + 1]);
    else if (std::strcmp(argv[i], "--seed") == 0)
      seed = std::atoll(argv[i + 1]);
    else if (std::strcmp(argv[i], "--thread-seed") == 0)
      return inv::test::runThreads(std::strtoull(argv[i + 1], nullptr, 10));
  }
  return inv::test::run(seconds, seed);
}
