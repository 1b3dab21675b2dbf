// Random chains with random hazards at once: layouts, modes, branches, partial
// and repeated backward, changes in place, exceptions. Each combination ends in
// plain autograd's gradients or in an error that the documentation names.
//
// The numbers of combinations are printed; a failure names its seed, which
// INVOPT_STRESS_SEED runs again. INVOPT_STRESS_SECONDS (default: 2) sets how
// long.
#include "HazardTest.h"

#include "inv/Abi.h"

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>

namespace inv::test {
namespace {

int64_t fromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoll(text) : otherwise;
}

/// One random program. Built twice from one seed: with steps, and plain.
class Program {
public:
  explicit Program(uint64_t seed) : random_(seed) {}

  /// Gradients that were asked for, in order.
  Tensors run(bool plain) {
    at::manual_seed(random_());
    const bool dropout = chance(3);
    const char* const modes[] = {abi::kInvert, abi::kInvert, abi::kInvert,
                                 abi::kRecompute, abi::kStore};
    const auto kind = pick(4);
    Net net(Door::Operator, 1 + pick(6), conditioner(kind, dropout),
            chance(4) ? 0.5 : 1, chance(4) ? -1 : 1);
    const Tensors x = leaves(inputs());
    Tensors states = {layout(x[0]), layout(x[1])};
    Tensors seen; // states that the loss reads
    for (int64_t part = 0, parts = 1 + pick(3); part < parts; part++) {
      if (chance(3))
        seen.push_back(states[pick(2)]);
      net.setMode(modes[pick(5)]);
      const Tensors y =
          plain ? net.plain(states[0], states[1]) : net(states[0], states[1]);
      net.setMode(modes[pick(5)]);
      if (chance(6)) // another chain branches off
        for (const at::Tensor& t :
             plain ? net.plain(states[1], y[0]) : net(states[1], y[0]))
          seen.push_back(t);
      states = y;
    }
    seen.push_back(states[0]);
    if (chance(2))
      seen.push_back(states[1]);
    change(net, states);
    return backward(net, x, seen);
  }

private:
  static Conditioner conditioner(int64_t kind, bool dropout) {
    Conditioner c = tanhNet(4);
    if (dropout) {
      c.code = "def conditioner(self, z: Tensor, w: Tensor, b: Tensor):\n"
               "    return torch.dropout(torch.linear(z, w, b), 0.4, True)\n";
      c.plain = [](const at::Tensor& z, const Tensors& p) {
        return at::dropout(at::linear(z, p[0], p[1]), 0.4, true);
      };
    } else if (kind == 1) {
      c.code = "def conditioner(self, z: Tensor, w: Tensor, b: Tensor):\n"
               "    return torch.linear(torch.relu(z), w, b)\n";
      c.plain = [](const at::Tensor& z, const Tensors& p) {
        return at::linear(at::relu(z), p[0], p[1]);
      };
    } else if (kind == 2) {
      c.code = "def conditioner(self, z: Tensor, w: Tensor, b: Tensor):\n"
               "    h = torch.where(z > 0.5, z, torch.sin(z))\n"
               "    return torch.linear(h, w, b)\n";
      c.plain = [](const at::Tensor& z, const Tensors& p) {
        return at::linear(at::where(z > 0.5, z, at::sin(z)), p[0], p[1]);
      };
    }
    return c;
  }

  Tensors inputs() {
    Tensors x = {random({6, 8}), random({6, 8})};
    if (chance(4))
      x[1].narrow(1, 2, 3).zero_();
    return x;
  }

  at::Tensor layout(const at::Tensor& t) {
    switch (pick(5)) {
    case 0:
      return t.narrow(1, 2, 4);
    case 1:
      return t.slice(1, 0, 8, 2);
    case 2:
      return (t.narrow(1, 0, 4).t() * 1).t();
    case 3:
      return t.narrow(1, 4, 4).relu();
    default:
      return t.narrow(1, 0, 4) * 1;
    }
  }

  /// What plain autograd might refuse too.
  void change(Net& net, Tensors& states) {
    if (chance(12))
      net.ofStep[0][0].detach().mul_(1.5);
    if (chance(12))
      states[pick(2)].detach().add_(1);
  }

  Tensors backward(Net& net, const Tensors& x, const Tensors& seen) {
    Tensors wanted, all = x;
    for (const at::Tensor& p : net.parameters())
      all.push_back(p);
    for (const at::Tensor& t : all)
      if (!chance(4))
        wanted.push_back(t);
    if (wanted.empty())
      wanted = all;
    const auto lossOf = [](const Tensors& of) {
      at::Tensor loss = at::zeros({}, at::kDouble);
      for (const at::Tensor& t : of)
        loss = loss + t.sin().sum();
      return loss;
    };
    Tensors result;
    const auto take = [&](const Tensors& grads) {
      result.insert(result.end(), grads.begin(), grads.end());
    };
    if (chance(3)) // a part of the graph first
      take(gradOf({lossOf({seen[0]})}, wanted, true));
    const at::Tensor loss = lossOf(seen);
    if (chance(3))
      take(gradOf({loss}, wanted, true));
    if (chance(4)) {
      const Tensors first = gradOf({loss}, wanted, true, true);
      at::Tensor sum = at::zeros({}, at::kDouble);
      for (const at::Tensor& g : first)
        if (g.defined())
          sum = sum + g.pow(2).sum();
      if (sum.requires_grad())
        take(gradOf({sum}, wanted, true));
    }
    take(gradOf({loss}, wanted));
    return result;
  }

  size_t pick(size_t n) { return random_() % n; }
  bool chance(size_t in) { return pick(in) == 0; }

  std::mt19937_64 random_;
};

TEST(Stress, EveryCombinationEndsInPlainGradientsOrADocumentedError) {
  const int64_t seconds = fromEnvironment("INVOPT_STRESS_SECONDS", 2);
  const int64_t only = fromEnvironment("INVOPT_STRESS_SEED", -1);
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  int64_t combinations = 0, right = 0, alone = 0, errors = 0, both = 0;
  for (uint64_t seed = only < 0 ? 1 : static_cast<uint64_t>(only);
       std::chrono::steady_clock::now() < end; seed++) {
    Tensors ours, plain;
    const std::string reference =
        messageOf([&] { plain = Program(seed).run(true); });
    const std::string message =
        messageOf([&] { ours = Program(seed).run(false); });
    combinations++;
    if (message.empty()) {
      if (reference.empty()) {
        ASSERT_LE(distance(ours, plain), 1e-9) << "seed " << seed;
        right++;
      } else { // nothing to compare with
        alone++;
      }
    } else {
      ASSERT_TRUE(contains(message, "modified by an inplace operation"))
          << "seed " << seed << ": " << message;
      errors++;
      both += reference.empty() ? 0 : 1;
    }
    // What autograd's queue of this thread still holds after an error goes with
    // its next run.
    at::ones({}).requires_grad_().sum().backward();
    ASSERT_EQ(stats().liveNodes, 0) << "seed " << seed << message;
    ASSERT_EQ(stats().liveSlots, 0) << "seed " << seed;
    if (only >= 0)
      break;
  }
  std::cout << combinations << " combinations: " << right << " right, "
            << errors << " documented errors (" << both
            << " of them plain autograd's "
            << "too), " << alone << " that plain autograd alone refused\n";
  EXPECT_GT(combinations, 0);
}

} // namespace
} // namespace inv::test
