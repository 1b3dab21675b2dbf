#include "test/passes/random/Program.h"

#include "passes/import/InlineCalls.h"

#include <ATen/ATen.h>
#include <ATen/ops/linalg_qr.h>

#include <fmt/format.h>

#include <utility>

namespace inv::opt::testing {

namespace {

/// Draws the pieces of a program.
class Generator {
public:
  explicit Generator(uint64_t seed) : random_(seed) { program_.seed = seed; }

  Program run() {
    program_.width = 2 + below(4);
    const int count = 1 + below(8);
    for (int i = 0; i < count; ++i)
      program_.blocks.push_back(block());
    program_.epilogue =
        pick({"return torch.cat([a, b], 1).sin()",
              "return torch.cat([b, a], 1)", "return a.sin() * 2.0, b.cos()",
              "return (torch.cat([a, b], 1) @ "
              "torch.cat([self.w0, self.w0], 0)).tanh()"});
    return program_;
  }

private:
  int below(int n) { return int(random_() % uint64_t(n)); }
  std::string pick(std::initializer_list<const char*> all) {
    return *(all.begin() + below(int(all.size())));
  }
  std::string weight() {
    const int known = program_.weights;
    if (known > 3 && below(4) == 0) // shared
      return fmt::format("self.w{}", below(known));
    return fmt::format("self.w{}", program_.weights++);
  }

  /// A name that no other block has.
  std::string fresh(const char* stem) {
    return stem + std::to_string(program_.names++);
  }

  /// Some network of stream `z`, of its shape; never constant. What it needs
  /// before the expression goes to `before_`.
  std::string network(const std::string& z) {
    switch (below(10)) {
    case 6: {
      std::string f = fresh("f");
      before_ +=
          fmt::format("{0} = {1}\nfor {2} in range({3}):\n"
                      "    {0} = torch.silu({0} @ {4})\n",
                      f, z, fresh("k"), pick({"2", "self.trips"}), weight());
      return f;
    }
    case 7:
      return fmt::format("torch.cat([torch.gelu(t @ {1}) for t in "
                         "torch.chunk({0}, 2, 0)], 0)",
                         z, weight());
    case 8: {
      std::string f = fresh("f");
      before_ += fmt::format("if bool({1}.sum() > 0.0):\n"
                             "    {0} = torch.silu({1} @ {2})\n"
                             "else:\n    {0} = torch.sigmoid({1} @ {2})\n",
                             f, z, weight());
      return f;
    }
    case 0:
      return fmt::format("torch.tanh(torch.linear({}, {}))", z, weight());
    case 1:
      return fmt::format("torch.linear(torch.gelu(torch.linear({}, {})), {})",
                         z, weight(), weight());
    case 2:
      return fmt::format("torch.sin({} @ {}) * 0.5", z, weight());
    case 3:
      return fmt::format(
          "torch.softmax({0} @ {0}.transpose(0, 1), 1) @ ({0} @ {1})", z,
          weight());
    case 4:
      return fmt::format("torch.relu({} @ {}) @ {}", z, weight(), weight());
    case 5:
      return fmt::format("torch.dropout(torch.silu({} @ {}), 0.3, True)", z,
                         weight());
    default:
      return fmt::format("torch.sigmoid({}) * ({} @ {})", z, z, weight());
    }
  }

  /// A scale that is nowhere zero, from stream `z`.
  std::string scale(const std::string& z) {
    const std::string f = network(z);
    switch (below(5)) {
    case 0:
      return fmt::format("torch.exp(torch.tanh({}))", f);
    case 1:
      return fmt::format("torch.sigmoid({} + 2.0)", f);
    case 2:
      return fmt::format("(1.0 + torch.sigmoid({}))", f);
    case 3:
      return fmt::format("torch.exp(0.4 * torch.atan({}))", f);
    default:
      return fmt::format("torch.clamp({}, 0.5, 2.0)", f);
    }
  }

  PlantedBlock block(int depth = 0) {
    constexpr int kDeepest = 3;
    PlantedBlock block =
        depth < kDeepest && below(7) == 0 ? nested(depth + 1) : plainBlock();
    block.code.insert(0, std::exchange(before_, ""));
    // The saved model has decided.
    if (below(8) == 0)
      block.code = "if self.flag:\n" + indented(block.code) +
                   pick({"", "else:\n    a, b = b, a\n"});
    return block;
  }

  static std::string indented(std::string code) {
    for (size_t at = 0; at < code.size(); at = code.find('\n', at) + 1)
      code.insert(at, "    ");
    return code;
  }

  /// Some blocks, to be put under an if or a loop.
  PlantedBlock body(int depth) {
    PlantedBlock all;
    for (int i = below(3); i >= 0; --i) {
      PlantedBlock one = block(depth);
      // A tensor that is written and handed on is not taken apart there.
      one.nearMiss |= one.code.find("x[:, ") != std::string::npos &&
                      one.code.find("] = ") != std::string::npos;
      all.code += one.code;
      all.couplings += one.couplings;
      all.nearMiss |= one.nearMiss;
    }
    return all;
  }

  /// Blocks that run or not, by what is drawn or by the data, or several times.
  PlantedBlock nested(int depth) {
    PlantedBlock all = body(depth);
    const std::string inside = indented(all.code);
    const std::string k = fresh("k");
    switch (below(6)) {
    case 0:
    case 1: {
      all.kind = "if";
      all.code = fmt::format(
          "if {}:\n{}",
          pick({"bool(a.sum() > 0.0)", "bool(torch.rand([1]) < 0.5)",
                "bool(b.mean() > a.mean())", "self.trips > 2"}),
          inside);
      if (below(2) == 0) {
        const PlantedBlock other = body(depth);
        all.code += "else:\n" + indented(other.code);
        all.couplings += other.couplings;
        all.nearMiss |= other.nearMiss;
      }
      break;
    }
    case 2:
    case 3:
      all.kind = "loop";
      all.code =
          fmt::format("for {} in range({}):\n{}", k,
                      pick({"2", "self.trips", "1", "a.size(0) - 4"}), inside);
      break;
    case 4:
      all.kind = "while";
      all.code = fmt::format("{0} = 0\nwhile {0} < 3:\n{1}"
                             "    {0} = {0} + 1 + int(bool(a.sum() > 0.0))\n",
                             k, inside);
      break;
    default:
      all.kind = "break";
      all.code = fmt::format("for {} in range(self.trips):\n{}"
                             "    if bool(b.sum() > 0.0):\n        break\n",
                             k, inside);
      break;
    }
    return all;
  }

  PlantedBlock plainBlock() {
    const std::string x = pick({"a", "b"});
    const std::string z = x == "a" ? "b" : "a";
    switch (below(17)) {
    case 0:
    case 1:
    case 2:
      return additive(x, z);
    case 3:
      return scaled(x, z);
    case 4:
    case 5:
      return affine(x, z);
    case 6:
      return {"swap", "a, b = b, a\n", 0, false};
    case 7:
      return rejoin();
    case 8:
      return layout(x);
    case 9:
      return below(3) == 0 ? nearMiss(x, z) : additive(x, z);
    case 10:
      return container();
    case 11:
      return masked(x);
    case 12:
      return pieces(x);
    case 13:
      return {"shift", fmt::format("{0} = {0} + {1}[0]\n", x, weight()), 0,
              false};
    case 14:
      return writtenPieces();
    case 15:
      return maskedJoin();
    default:
      return {"linear",
              fmt::format("{0} = torch.linear({0}, {1})\n", x, weight()), 0,
              false};
    }
  }

  PlantedBlock additive(const std::string& x, const std::string& z) {
    static const std::initializer_list<const char*> spellings = {
        "{0} = {0} + {1}\n",
        "{0} = {1} + {0}\n",
        "{0} = torch.add({0}, {1})\n",
        "{0} = {0} - {1}\n",
        "{0} = torch.add({0}, {1}, alpha=0.5)\n",
        "{0} = torch.sub({0}, {1}, alpha=2)\n",
        "f = {1}\n{0} = {0} + f\n",
        "f = {1}\nf = f + 1.0\n{0} = f + {0}\n",
        "{0} = {0} + ({1}).contiguous()\n",
        "f = {1} + 0.5\nf += {0}\n{0} = f\n"};
    return {"additive",
            fmt::format(fmt::runtime(pick(spellings)), x, network(z)), 1,
            false};
  }

  PlantedBlock scaled(const std::string& x, const std::string& z) {
    static const std::initializer_list<const char*> spellings = {
        "{0} = 0.75 * {0} + {1}\n", "{0} = {1} - {0}\n",
        "{0} = {0} / 1.25 - {1}\n", "{0} = -{0} + {1}\n",
        "{0} = {0} * -1.5\n{0} = {0} + {1}\n"};
    return {"scaled", fmt::format(fmt::runtime(pick(spellings)), x, network(z)),
            1, false};
  }

  PlantedBlock affine(const std::string& x, const std::string& z) {
    switch (below(4)) {
    case 0:
      return {"affine",
              fmt::format("{0} = {0} * {1} + {2}\n", x, scale(z), network(z)),
              // Two networks without a common node: two steps.
              2, false};
    case 1:
      return {
          "affine",
          fmt::format("h = {2}\n{0} = ({0} + h) * torch.exp(torch.sin(h))\n", x,
                      z, network(z)),
          1, false};
    case 2:
      return {"affine", fmt::format("{0} = {0} / {1}\n", x, scale(z)), 1,
              false};
    default:
      return {"affine", fmt::format("{0} = {1} * {0}\n", x, scale(z)), 1,
              false};
    }
  }

  /// A coupling of the elements of one stream that a mask tells apart.
  PlantedBlock masked(const std::string& x) {
    const std::string f = network("k");
    const std::string before = std::exchange(before_, ""); // reads k
    switch (below(3)) {
    case 0:
      return {"masked",
              fmt::format("k = self.m * {0}\n{2}"
                          "{0} = k + (1.0 - self.m) * ({0} + {1})\n",
                          x, f, before),
              2, false};
    case 1:
      return {"masked",
              fmt::format("k = {0} * self.n\n{2}"
                          "{0} = ({0} - {1}) * self.m + k\n",
                          x, f, before),
              2, false};
    default: // what the mask leaves is lost
      return {"near miss",
              fmt::format("k = self.m * {0}\n{2}"
                          "{0} = self.n * ({0} + {1})\n",
                          x, f, before),
              0, true};
    }
  }

  /// Elements in other places.
  PlantedBlock pieces(const std::string& x) {
    switch (below(4)) {
    case 0:
      return {"strides",
              "x = torch.cat([a, b], 1)\na = x[:, ::2]\nb = x[:, 1::2]\n", 0,
              false};
    case 1:
      return {"permutation",
              "x = torch.cat([a, b], 1)[:, self.p]\n"
              "a, b = torch.chunk(x, 2, 1)\n",
              0, false};
    case 2:
      return {"index_select",
              fmt::format("{0} = torch.index_select({0}, 1, self.q)\n", x), 0,
              false};
    default: // one column twice, another not at all
      return {"near miss",
              fmt::format("{0} = torch.index_select({0}, 1, self.r)\n", x), 0,
              true};
    }
  }

  PlantedBlock rejoin() {
    const int64_t w = program_.width;
    switch (below(4)) {
    case 0:
      return {"chunk",
              "x = torch.cat([a, b], 1)\na, b = torch.chunk(x, 2, 1)\n", 0,
              false};
    case 1:
      return {"split",
              fmt::format("x = torch.cat([a, b], -1)\n"
                          "a, b = torch.split(x, [{0}, {0}], 1)\n",
                          w),
              0, false};
    case 2:
      return {"slices",
              fmt::format("x = torch.cat([b, a], 1)\n"
                          "a = x[:, :{0}]\nb = x[:, {0}:]\n",
                          w),
              0, false};
    default:
      return {"flip",
              "x = torch.cat([a, b], 1).flip([1])\n"
              "a, b = torch.chunk(x, 2, 1)\n",
              0, false};
    }
  }

  /// The streams by way of a list, a tuple or a dictionary.
  PlantedBlock container() {
    const std::string s = fresh("s");
    return {"container",
            fmt::format(
                fmt::runtime(pick(
                    {"{0} = [a, b]\nb, a = {0}[0], {0}[1]\n",
                     "{0} = (b, a)\na, b = {0}\n",
                     "{0} : List[Tensor] = []\n"
                     "{0}.append(b)\n{0} += [a]\na = {0}[0]\nb = {0}[1]\n",
                     "{0} = {{'a': a, 'b': b}}\na = {0}['b']\nb = {0}['a']\n",
                     "{0} = [a, b, a]\n{0}[0] = {0}[1]\n"
                     "a, b = {0}[:2][1], {0}[2]\na, b = {0}[0], b\n"})),
                s),
            0, false};
  }

  /// Both streams read from one tensor, or written into one, in pieces.
  PlantedBlock writtenPieces() {
    static const std::initializer_list<const char*> spellings = {
        "x = torch.cat([a, b], 1)\na, b = x[:, ::2], x[:, 1::2]\n",
        "x = torch.cat([b, a], 1)[:, self.order]\n"
        "a, b = torch.chunk(x, 2, 1)\n",
        "x = torch.cat([a, b], 1)\n"
        "a, b = x[:, self.first], x[:, self.second]\n",
        "x = torch.empty_like(torch.cat([a, b], 1))\n"
        "x[:, ::2] = a\nx[:, 1::2] = b\n"
        "a, b = torch.chunk(x, 2, 1)\n",
        "x = torch.zeros([a.size(0), {0} + {0}], dtype=a.dtype)\n"
        "x[:, :{0}] = b\nx[:, {0}:] = a\n"
        "a, b = x[:, ::2], x[:, 1::2]\n",
        "x = torch.zeros_like(torch.cat([a, b], 1))\n"
        "x[:, self.second] = b\nx[:, self.first] = a\n"
        "b, a = torch.chunk(x, 2, 1)\n"};
    return {"pieces",
            fmt::format(fmt::runtime(pick(spellings)), program_.width), 0,
            false};
  }

  /// A coupling of both streams at once, whose halves a mask tells apart.
  PlantedBlock maskedJoin() {
    static const std::initializer_list<const char*> spellings = {
        "x = k + (1.0 - self.mask) * (x + f)\n",
        "x = k + (1.0 - self.mask) * (x * torch.exp(torch.tanh(f)) + f)\n",
        "x = x + (1.0 - self.mask) * f\n",
        "f = (1.0 - self.mask) * f\nx = x * torch.exp(torch.tanh(f)) + f\n",
        "x = torch.where(self.mask > 0.5, x, x + f)\n"};
    const std::string both =
        fmt::format("torch.cat([{}, {}], 1)", weight(), weight());
    return {"masked",
            fmt::format("x = torch.cat([a, b], 1)\nk = self.mask * x\n"
                        "f = torch.tanh(k @ {0}.t() @ {0})\n{1}"
                        "a, b = torch.chunk(x, 2, 1)\n",
                        both, pick(spellings)),
            // The sum of what two masks left may be a step of its own.
            2, false};
  }

  PlantedBlock layout(const std::string& x) {
    return {
        "layout",
        fmt::format(fmt::runtime(pick({"{0} = {0}.flip([1])\n",
                                       "{0} = torch.roll({0}, [1], [1])\n",
                                       "{0} = -{0}\n", "{0} = {0}.clone()\n",
                                       "{0} = {0}.unsqueeze(0).squeeze(0)\n"})),
                    x),
        0, false};
  }

  PlantedBlock nearMiss(const std::string& x, const std::string& z) {
    static const std::initializer_list<const char*> spellings = {
        "{0} = {0} + {2}\n",                           // residual
        "{0} = torch.relu({0})\n",                     // not invertible
        "{0} = {0} * torch.tanh({1})\n",               // scale may be zero
        "{0} = 0.0 * {0} + {1}\n",                     // scale is zero
        "{0} = torch.dropout({0}, 0.5, True) + {1}\n", // random on the state
        "a, b = a + torch.tanh(b @ {3}), b + torch.tanh(a @ {3})\n", // parallel
        "{0} = {0} + {1} * {0}.mean()\n", // reads the state
        "{0} = {0} * {0}\n"};             // used twice
    return {"near miss",
            fmt::format(fmt::runtime(pick(spellings)), x, network(z),
                        network(x), weight()),
            0, true};
  }

  std::mt19937_64 random_;
  Program program_;
  std::string before_; ///< lines that go before the block's own
};

} // namespace

int Program::couplings() const {
  int count = 0;
  for (const PlantedBlock& b : blocks)
    count += b.couplings;
  return count;
}

bool Program::hasNearMiss() const {
  for (const PlantedBlock& b : blocks)
    if (b.nearMiss)
      return true;
  return false;
}

std::string Program::source() const {
  std::string out = "def forward(self, x):\n"
                    "    x = torch.sin(x)\n"
                    "    a, b = torch.chunk(x, 2, 1)\n";
  auto indent = [&](const std::string& code) {
    size_t at = 0;
    while (at < code.size()) {
      const size_t end = code.find('\n', at);
      out += "    " + code.substr(at, end - at) + "\n";
      if (end == std::string::npos)
        break;
      at = end + 1;
    }
  };
  for (const PlantedBlock& b : blocks)
    indent(b.code);
  indent(epilogue);
  return out;
}

torch::jit::Module Program::module() const {
  at::Generator generator = at::detail::createCPUGenerator(seed + 1);
  torch::jit::Module m("Random" + std::to_string(seed));
  m.register_attribute("training", c10::BoolType::get(), true);
  m.register_attribute("flag", c10::BoolType::get(), true);
  m.register_attribute("trips", c10::IntType::get(), int64_t(3));
  for (int i = 0; i < std::max(weights, 1); ++i) {
    const at::Tensor square =
        at::randn({width, width}, generator, at::TensorOptions(at::kDouble));
    m.register_parameter(
        "w" + std::to_string(i),
        std::get<0>(at::linalg_qr(square)).clone().set_requires_grad(true),
        false);
  }
  // Masks of the even and the odd places, permutations of one stream and of
  // both, and what is none.
  const at::Tensor even =
      at::arange(width, at::kDouble).add(1.0).remainder(2.0);
  m.register_buffer("m", even);
  m.register_buffer("n", 1.0 - even);
  // An index by 0, 1, ... is taken for a choice of the first places, so none of
  // these is.
  auto permutation = [&](int64_t n) {
    const at::Tensor p = at::randperm(n, generator, at::kLong);
    return p.equal(at::arange(n)) ? p.flip(0) : p;
  };
  m.register_buffer("p", permutation(2 * width));
  m.register_buffer("q", permutation(width));
  m.register_buffer("r", at::arange(width).clamp(0, width - 2));
  // Places and masks of both streams together.
  const at::Tensor order = at::randperm(2 * width, generator, at::kLong);
  m.register_buffer("order", order);
  m.register_buffer("first", order.slice(0, 0, width).clone());
  m.register_buffer("second", order.slice(0, width).clone());
  m.register_buffer("mask", at::zeros({2 * width}, at::kDouble)
                                .index_fill(0, order.slice(0, 0, width), 1.0));
  m.define(source());
  return m;
}

Program randomProgram(uint64_t seed) { return Generator(seed).run(); }

Model modelOf(const Program& program) {
  Model model;
  model.module = program.module();
  model.methods.emplace_back();
  model.methods[0].name = "forward";
  model.methods[0].graph = inlinedCopy(model.module, "forward", {});
  return model;
}

} // namespace inv::opt::testing
