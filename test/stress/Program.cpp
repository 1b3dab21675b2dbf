#include "Program.h"

#include "inv/Abi.h"

#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

#include <algorithm>
#include <mutex>

namespace inv::test {
namespace {

namespace ag = torch::autograd;

/// While a guard says so, nodes that this thread makes save copies. (PyTorch
/// has hooks for that, which only Python can set.)
class CopyingEngine final : public ag::Engine {
public:
  class Guard {
  public:
    explicit Guard(bool copies) {
      static std::once_flag once;
      std::call_once(once, [] {
        static auto* engine = new CopyingEngine; // its threads never end
        ag::set_default_engine_stub([]() -> ag::Engine& { return *engine; });
      });
      copies_ = copies;
    }
    ~Guard() { copies_ = false; }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
  };

  std::unique_ptr<ag::SavedVariableHooks>
  get_default_saved_variable_hooks() override {
    struct Copy final : ag::SavedVariableHooks {
      void call_pack_hook(const at::Tensor& t) override { copy = t.clone(); }
      at::Tensor call_unpack_hook() override { return copy; }
      at::Tensor copy;
    };
    return copies_ ? std::make_unique<Copy>() : nullptr;
  }

private:
  static inline thread_local bool copies_ = false;
};

} // namespace

Program::Program(uint64_t seed, const Allowed& allowed)
    : random_(seed), allowed_(allowed),
      dtype_(random_.chance(4) ? at::kFloat : at::kDouble),
      maskSeed_(random_.seed()) {
  for (size_t i = 0, n = 1 + random_.pick(8); i < n; i++) {
    parts_.push_back(makePart(random_, dtype_, allowed));
    notes_.push_back(parts_.back().name);
    // Errors may grow 100 times, in float64 too: a wrong gradient stands out.
    parts_.back().step.setattr(abi::kMaxGrowth,
                               dtype_ == at::kFloat ? 100. : 1.);
  }
  if (random_.chance(4)) // a weight that two steps have
    parts_.push_back(parts_.front());
  x_ = {input(), input()};
}

double Program::bound() const { return dtype_ == at::kFloat ? 2e-3 : 1e-8; }

std::string Program::describe() const {
  std::string result = dtype_ == at::kFloat ? "float32:" : "float64:";
  for (const std::string& note : notes_)
    result += " " + note;
  return result;
}

at::Tensor Program::input() {
  at::Tensor x = random_.normal({6, 8}, dtype_);
  if (random_.chance(4))
    x.narrow(1, 2, 3).zero_();
  if (random_.chance(4))
    x.clamp_(-1, 1);
  return x.requires_grad_();
}

at::Tensor Program::laidOut(const at::Tensor& t) {
  switch (random_.pick(6)) {
  case 0:
    return t.narrow(1, 2, 4);
  case 1:
    return t.slice(1, 0, 8, 2);
  case 2:
    return (t.narrow(1, 0, 4).t() * 1).t();
  case 3:
    return t.narrow(1, 4, 4).relu();
  case 4:
    return t.select(1, 0).unsqueeze(1).expand({6, 4});
  default:
    return t.narrow(1, 0, 4) * 1;
  }
}

Tensors Program::run(Way way) {
  const bool plain = way != Way::Steps;
  retainsAll_ = way == Way::PlainWithCopies;
  const CopyingEngine::Guard copies(way == Way::PlainWithCopies);
  if (allowed_.dropout)
    at::manual_seed(maskSeed_);
  Tensors seen, sides;
  const States end = forward(plain, seen, sides);
  seen.push_back(end.a);
  if (random_.chance(2))
    seen.push_back(end.b);
  Tensors result;
  for (const at::Tensor& t : seen)
    result.push_back(t.detach().clone());
  changeInPlace(end);
  for (const at::Tensor& g : backward(seen, sides))
    result.push_back(g);
  for (const Part& part : parts_)
    for (const at::Tensor& t : part.captures)
      if (!t.requires_grad())
        result.push_back(t.clone());
  return result;
}

States Program::forward(bool plain, Tensors& seen, Tensors& sides) {
  const char* const modes[] = {abi::kInvert, abi::kInvert, abi::kInvert,
                               abi::kRecompute, abi::kStore};
  States states = {laidOut(x_[0]), laidOut(x_[1])};
  for (Part& part : parts_) {
    part.step.setattr(abi::kMode, std::string(modes[random_.pick(5)]));
    if (random_.chance(4))
      seen.push_back(random_.chance(2) ? states.a : states.b);
    if (random_.chance(8))
      branch(plain, states, seen, sides);
    const at::Tensor before = states.b;
    if (random_.chance(10) && part.captures.size() < 3) {
      notes_.push_back("(run again)");
      const Tensors outputs = checkpointed(
          [&part, plain](const Tensors& in) -> Tensors {
            Tensors dropped;
            const States out = part.run({in[0], in[1]}, plain, dropped);
            return {out.a, out.b};
          },
          {states.a, states.b});
      states = {outputs[0], outputs[1]};
    } else {
      states = part.run(states, plain, sides);
    }
    // Not on a tensor that a step only read: ours gives a new one for it.
    if (random_.chance(6) && !states.b.is_same(before))
      hook(states.b);
    if (random_.chance(6)) // the streams change places
      std::swap(states.a, states.b);
    part.step.setattr(abi::kMode, std::string(modes[random_.pick(5)]));
  }
  return states;
}

/// Another chain, from the same states.
void Program::branch(bool plain, const States& states, Tensors& seen,
                     Tensors& sides) {
  notes_.push_back("(branch)");
  const Part& part = parts_[random_.pick(parts_.size())];
  const States other = part.run({states.b, states.a}, plain, sides);
  seen.push_back(other.a);
  if (random_.chance(2))
    seen.push_back(other.b);
}

void Program::hook(const at::Tensor& t) {
  if (!t.requires_grad())
    return;
  notes_.push_back("(hook)");
  // Of a node with several outputs, as the one that runs again, autograd calls
  // the hooks of all.
  t.register_hook([](const at::Tensor& g) {
    TestOps::mayFail();
    return g.defined() ? g * 1.5 : g;
  });
}

/// What plain autograd might refuse too.
void Program::changeInPlace(const States& states) {
  if (random_.chance(12) && !parts_[0].captures.empty()) {
    changes_ = true;
    parts_[0].captures[0].detach().mul_(1.5);
  }
  if (random_.chance(12)) {
    changes_ = true;
    (random_.chance(2) ? states.a : states.b).detach().add_(1);
  }
  if (random_.chance(12)) {
    changes_ = true;
    x_[random_.pick(2)].detach().mul_(0.5);
  }
}

at::Tensor Program::lossOf(const Tensors& of) {
  at::Tensor loss = at::zeros({}, dtype_);
  for (const at::Tensor& t : of)
    loss = loss + t.sin().sum();
  return loss;
}

Tensors Program::backward(const Tensors& seen, const Tensors& sides) {
  Tensors wanted, all = x_;
  for (const Part& part : parts_)
    for (const at::Tensor& t : part.captures)
      if (t.requires_grad())
        all.push_back(t);
  for (const at::Tensor& t : all)
    if (!random_.chance(4))
      wanted.push_back(t);
  if (wanted.empty())
    wanted = all;
  Tensors result;
  const auto ask = [&](const at::Tensor& loss, const Tensors& of, bool retain,
                       bool create = false) {
    Tensors g = ag::grad({loss}, of, {}, retain || retainsAll_, create,
                         /*allow_unused=*/true);
    result.insert(result.end(), g.begin(), g.end());
    return g;
  };
  if (random_.chance(3)) { // a part of the graph first
    const bool retain = !random_.chance(4);
    releases_ = releases_ || !retain;
    ask(lossOf({seen[0]}), wanted, retain);
  }
  Tensors ends = seen;
  ends.insert(ends.end(), sides.begin(), sides.end());
  const at::Tensor loss = lossOf(ends);
  if (random_.chance(3))
    ask(loss, wanted, true);
  if (random_.chance(4)) {
    const Tensors first = ask(loss, wanted, true, true);
    at::Tensor sum = at::zeros({}, dtype_);
    for (const at::Tensor& g : first)
      if (g.defined())
        sum = sum + g.pow(2).sum();
    for (at::Tensor& g : result)
      g = g.defined() ? g.detach() : g;
    if (sum.requires_grad())
      ask(sum, wanted, true);
  }
  // A part that runs again within the backward would have no graph there.
  if (random_.chance(8) &&
      std::find(notes_.begin(), notes_.end(), "(run again)") == notes_.end()) {
    notes_.push_back("(in inference mode)");
    const c10::InferenceMode inference;
    ask(loss, wanted, true);
  }
  if (random_.chance(4)) { // accumulated
    loss.backward({}, true);
    for (const at::Tensor& t : all) {
      result.push_back(t.grad().defined() ? t.grad().clone() : t.grad());
      at::Tensor(t).mutable_grad().reset();
    }
  }
  ask(loss, wanted, false);
  return result;
}

} // namespace inv::test
