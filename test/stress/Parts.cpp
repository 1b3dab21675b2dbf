#include "Parts.h"

#include "inv/Abi.h"

#include <ATen/CPUGeneratorImpl.h>

#include <map>
#include <mutex>

namespace inv::test {

Random::Random(uint64_t seed)
    : engine_(seed), generator_(at::detail::createCPUGenerator(seed)) {}

at::Tensor Random::normal(c10::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, generator_, at::TensorOptions().dtype(dtype));
}

namespace {

constexpr int64_t kWidth = 4;

/// A step by its code. Objects of one class are used by several programs, and
/// threads, at once; so their switches are set on a copy.
torch::jit::Module stepOf(const StepSpec& spec,
                          const std::string& innerCode = {}) {
  static std::mutex mutex;
  static auto* all = new std::map<std::string, torch::jit::Module>;
  const std::string key = spec.code + spec.arithmetic + innerCode +
                          std::to_string(spec.xScale) +
                          std::to_string(spec.auxScale);
  const std::lock_guard lock(mutex);
  auto found = all->find(key);
  if (found == all->end()) {
    std::vector<std::pair<std::string, torch::jit::Module>> inner;
    if (!innerCode.empty()) {
      StepSpec innerSpec;
      innerSpec.arithmetic = abi::kScaledSum;
      innerSpec.code = innerCode;
      inner.emplace_back("inner", makeStep(innerSpec));
    }
    found = all->emplace(key, makeStep(spec, inner)).first;
  }
  return found->second.deepcopy();
}

/// F of y = x + F(z; w, b).
struct Network {
  const char* name;
  const char* code;
  std::function<at::Tensor(const at::Tensor& z, const Tensors& p)> plain;
  bool draws = false;
};

const std::vector<Network>& networks() {
  static const auto* all = new std::vector<Network>{
      {"tanh", "torch.tanh(torch.linear(invtest.fail_once(z), w, b))",
       [](auto& z, auto& p) { return at::tanh(at::linear(z, p[0], p[1])); }},
      {"relu", "torch.linear(torch.relu(z), w, b)",
       [](auto& z, auto& p) { return at::linear(at::relu(z), p[0], p[1]); }},
      {"hardtanh", "torch.linear(torch.hardtanh(z), w, b)",
       [](auto& z, auto& p) {
         return at::linear(at::hardtanh(z), p[0], p[1]);
       }},
      {"where", "torch.linear(torch.where(z > 0.5, z, torch.sin(z)), w, b)",
       [](auto& z, auto& p) {
         return at::linear(at::where(z > 0.5, z, at::sin(z)), p[0], p[1]);
       }},
      {"sort", "torch.tanh(torch.linear(torch.sort(z, 1)[0], w, b))",
       [](auto& z, auto& p) {
         return at::tanh(at::linear(std::get<0>(at::sort(z, 1)), p[0], p[1]));
       }},
      {"maximum", "torch.linear(torch.maximum(z, torch.flip(z, [1])), w, b)",
       [](auto& z, auto& p) {
         return at::linear(at::maximum(z, at::flip(z, {1})), p[0], p[1]);
       }},
      {"layer norm",
       "torch.linear(torch.layer_norm(z, [4], None, None, 0.1), w, b)",
       [](auto& z, auto& p) {
         return at::linear(at::layer_norm(z, {4}, {}, {}, 0.1), p[0], p[1]);
       }},
      {"dropout", "torch.dropout(torch.linear(z, w, b), 0.4, True)",
       [](auto& z, auto& p) {
         return at::dropout(at::linear(z, p[0], p[1]), 0.4, true);
       },
       true},
      {"in place", "torch.linear((z * 1).sub_(0.25).relu_(), w, b)",
       [](auto& z, auto& p) {
         return at::linear(at::relu(z - 0.25), p[0], p[1]);
       }}};
  return *all;
}

Tensors parametersOf(Random& random, at::ScalarType dtype) {
  return {(random.normal({kWidth, kWidth}, dtype) / 3).requires_grad_(),
          (random.normal({kWidth}, dtype) / 10).requires_grad_()};
}

Part sum(Random& random, at::ScalarType dtype, const Allowed& allowed) {
  const Network* net;
  do
    net = &networks()[random.pick(networks().size())];
  while (net->draws && !allowed.dropout);
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = std::string("def conditioner(self, z: Tensor, w: Tensor, b: "
                          "Tensor):\n    return ") +
              net->code + "\n";
  if (random.chance(4))
    spec.xScale = 0.5;
  if (random.chance(4))
    spec.auxScale = -1;
  Part part{net->name, stepOf(spec), parametersOf(random, dtype), {}};
  const double xScale = spec.xScale, auxScale = spec.auxScale;
  part.run = [=, step = part.step, p = part.captures](
                 const States& s, bool plain, Tensors&) -> States {
    if (plain) {
      const at::Tensor f = net->plain(s.b, p);
      return {s.b, (xScale == 1 ? s.a : s.a * xScale) +
                       (auxScale == 1 ? f : f * auxScale)};
    }
    const Tensors out = coupling(step, {s.a}, {s.b}, p);
    return {out[1], out[0]};
  };
  return part;
}

/// The capture is made of the state that the step consumes.
Part gated(Random& random, at::ScalarType dtype, const Allowed&) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor, g: Tensor, w: Tensor):\n"
              "    return torch.tanh(torch.linear(z, w)) * g\n";
  Tensors p = parametersOf(random, dtype);
  Part part{"gated", stepOf(spec), p, {}};
  part.run = [step = part.step, p](const States& s, bool plain,
                                   Tensors&) -> States {
    const at::Tensor gate = (s.a.mean(0) * p[1]).sigmoid();
    if (plain)
      return {s.b, s.a + at::tanh(at::linear(s.b, p[0])) * gate};
    const Tensors out = coupling(step, {s.a}, {s.b}, {gate, p[0]});
    return {out[1], out[0]};
  };
  return part;
}

Part affine(Random& random, at::ScalarType dtype, const Allowed&) {
  StepSpec spec;
  spec.numAux = 2;
  spec.numSides = 1;
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor):
    s = torch.tanh(torch.linear(z, w, b)) * 0.5
    return torch.exp(s), torch.relu(z), s.sum(1)
def function(self, x: Tensor, s: Tensor, t: Tensor):
    return x * s + t
def inverse(self, y: Tensor, s: Tensor, t: Tensor):
    return (y - t) / s
def growth(self, y: Tensor, s: Tensor, t: Tensor):
    return torch.amax(torch.reciprocal(s))
)";
  Part part{"affine", stepOf(spec), parametersOf(random, dtype), {}};
  part.run = [step = part.step, p = part.captures](const States& s, bool plain,
                                                   Tensors& sides) -> States {
    if (plain) {
      const at::Tensor l = at::tanh(at::linear(s.b, p[0], p[1])) * 0.5;
      sides.push_back(l.sum(1));
      return {s.b, s.a * at::exp(l) + at::relu(s.b)};
    }
    const Tensors out = coupling(step, {s.a}, {s.b}, p);
    sides.push_back(out[1]);
    return {out[2], out[0]};
  };
  return part;
}

/// Training batch norm, whose statistics the step writes.
Part normed(Random& random, at::ScalarType dtype, const Allowed&) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.scratch = {2, 3};
  spec.code = R"(
def conditioner(self, z: Tensor, w: Tensor, b: Tensor, mean: Tensor,
                var: Tensor):
    return torch.batch_norm(torch.linear(z, w, b), None, None, mean, var, True,
                            0.1, 0.1, False)
)";
  Tensors p = parametersOf(random, dtype);
  const auto options = at::TensorOptions().dtype(dtype);
  p.push_back(at::zeros({kWidth}, options));
  p.push_back(at::ones({kWidth}, options));
  Part part{"batch norm", stepOf(spec), p, {}};
  part.run = [step = part.step, p](const States& s, bool plain,
                                   Tensors&) -> States {
    if (plain)
      return {s.b, s.a + at::batch_norm(at::linear(s.b, p[0], p[1]), {}, {},
                                        p[2], p[3], true, 0.1, 0.1, false)};
    const Tensors out = coupling(step, {s.a}, {s.b}, p);
    return {out[1], out[0]};
  };
  return part;
}

Part bijectionPart(Random& random, at::ScalarType dtype, const Allowed&) {
  StepSpec spec;
  spec.numAux = 0;
  Tensors p;
  std::function<at::Tensor(const at::Tensor&)> plain;
  std::string name;
  switch (random.pick(3)) {
  case 0:
    name = "leaky relu";
    spec.code = "def function(self, x: Tensor):\n"
                "    return torch.leaky_relu(x, 0.5)\n"
                "def inverse(self, y: Tensor):\n"
                "    return torch.leaky_relu(y, 2.)\n"
                "def growth(self, y: Tensor):\n"
                "    return torch.full([], 2.)\n";
    plain = [](auto& x) { return at::leaky_relu(x, 0.5); };
    break;
  case 1: {
    name = "linear";
    spec.arithmetic = abi::kLinear;
    spec.code = "def function(self, x: Tensor, w: Tensor):\n"
                "    return torch.linear(x, w)\n"
                "def inverse(self, y: Tensor, w: Tensor):\n"
                "    return torch.linear(y, torch.inverse(w))\n";
    const at::Tensor noise = random.normal({kWidth, kWidth}, dtype) / 10;
    p = {(at::eye(kWidth, noise.options()) + noise).requires_grad_()};
    plain = [w = p[0]](auto& x) { return at::linear(x, w); };
    break;
  }
  default:
    name = "flip";
    spec.code = "def function(self, x: Tensor):\n"
                "    return torch.flip(x, [1])\n"
                "def inverse(self, y: Tensor):\n"
                "    return torch.flip(y, [1])\n";
    plain = [](auto& x) { return at::flip(x, {1}); };
  }
  Part part{name, stepOf(spec), p, {}};
  part.run = [step = part.step, p, plain](const States& s, bool isPlain,
                                          Tensors&) -> States {
    return {s.b, isPlain ? plain(s.a) : bijection(step, {s.a}, p)[0]};
  };
  return part;
}

Part recompute(Random& random, at::ScalarType dtype, const Allowed&) {
  StepSpec spec;
  spec.numStates = 0;
  spec.numAux = 0;
  spec.numSides = 1;
  spec.code = "def conditioner(self, z: Tensor, w: Tensor, b: Tensor):\n"
              "    return torch.tanh(torch.linear(z, w, b)).sum(1)\n";
  Part part{"recompute", stepOf(spec), parametersOf(random, dtype), {}};
  part.run = [step = part.step, p = part.captures](const States& s, bool plain,
                                                   Tensors& sides) -> States {
    if (plain) {
      sides.push_back(at::tanh(at::linear(s.a, p[0], p[1])).sum(1));
      return s;
    }
    const Tensors out = checkpoint(step, {s.a}, p);
    sides.push_back(out[0]);
    return {out[1], s.b};
  };
  return part;
}

Part nested(Random& random, at::ScalarType dtype, const Allowed&) {
  StepSpec spec;
  spec.arithmetic = abi::kScaledSum;
  spec.code = "def conditioner(self, z: Tensor, w: Tensor, b: Tensor):\n"
              "    h = torch.tanh(torch.linear(z, w, b))\n"
              "    return inv.coupling(self.inner, [h], [z], [w], None)[0]\n";
  const std::string inner =
      "def conditioner(self, z: Tensor, w: Tensor):\n"
      "    return torch.tanh(torch.linear(torch.relu(z), w))\n";
  Part part{"nested", stepOf(spec, inner), parametersOf(random, dtype), {}};
  part.run = [step = part.step, p = part.captures](const States& s, bool plain,
                                                   Tensors&) -> States {
    if (plain) {
      const at::Tensor h = at::tanh(at::linear(s.b, p[0], p[1]));
      return {s.b, s.a + (h + at::tanh(at::linear(at::relu(s.b), p[0])))};
    }
    const Tensors out = coupling(step, {s.a}, {s.b}, p);
    return {out[1], out[0]};
  };
  return part;
}

} // namespace

Part makePart(Random& random, at::ScalarType dtype, const Allowed& allowed) {
  using Make = Part (*)(Random&, at::ScalarType, const Allowed&);
  constexpr Make kForms[] = {&sum,    &sum,           &sum,      &sum,
                             &gated,  &affine,        &affine,   &normed,
                             &nested, &bijectionPart, &recompute};
  return kForms[random.pick(std::size(kForms))](random, dtype, allowed);
}

} // namespace inv::test
