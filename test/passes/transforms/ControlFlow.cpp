// Lists that are written, loops over them, what ifs and loops hand on, and
// attributes that decide the code's shape, in canonicalize.
#include "GraphTest.h"

namespace inv::opt {
namespace {

using namespace inv::opt::testing;
using torch::jit::Module;

at::Tensor sample(const std::vector<int64_t>& sizes) {
  at::manual_seed(3);
  return at::randn(sizes);
}

/// Canonicalizes `forward` of a module with this source and checks that it
/// computes the same bits.
GraphPtr canonical(const std::string& source,
                   const std::vector<at::Tensor>& inputs,
                   Module module = Module("M")) {
  module.define(source);
  const GraphPtr graph = inlined(module);
  GraphPtr copy = graph->copy();
  runPass(canonicalize, copy, module);
  expectSame(graph, copy, inputs, &module);
  return copy;
}

// ---------------------------------------------------------- written containers

TEST(Containers, WhatIsAppendedIsKnown) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x]
        ys.append(x.sin())
        ys += [x.cos(), x]
        ys[0] = x.tanh()
        return torch.cat(ys, 1) * float(len(ys)) + ys[1].sum()
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 0);
  EXPECT_EQ(count(graph, "aten::len"), 0);
  EXPECT_EQ(count(graph, "aten::__getitem__"), 0);
  EXPECT_EQ(count(graph, "prim::ListConstruct"), 1);
}

TEST(Containers, AListComprehensionIsAPureLoop) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [t.sin() for t in torch.chunk(x, 3, 0)]
        return torch.cat(ys, 0)
  )JIT",
                         {sample({4, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 0);
  EXPECT_EQ(count(graph, "prim::Loop"), 1) << "chunk may give fewer pieces";
}

TEST(Containers, AWriteInABranchIsAResultOfTheIf) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x]
        if x.dim() == 2:
            ys.append(x.sin())
            if x.size(0) == 5:
                ys.append(x.cos())
        return torch.cat(ys, 1), ys[0]
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 0);
  EXPECT_EQ(count(graph, "prim::If"), 2);
}

TEST(Containers, ALoopInABranchInALoop) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys: List[Tensor] = []
        for i in range(x.size(0)):
            if i % 2 == 0:
                for j in range(i):
                    ys.append(x * float(j))
                ys.append(x)
        return torch.stack(ys) * float(len(ys))
  )JIT",
                         {sample({5, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 0);
}

TEST(Containers, ADictionaryThatIsFilledIsALiteral) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        out: Dict[str, Tensor] = {}
        out["a"] = x.sin()
        out["b"] = out["a"] * 2
        out["a"] = x.cos()
        return out["a"] - out["b"]
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::_set_item"), 0);
  EXPECT_EQ(count(graph, "prim::DictConstruct"), 0);
}

// Whoever holds the list sees what is appended to it later.
TEST(Containers, AListThatIsHandedOnBeforeTheLastWriteStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x]
        pair = (ys, x)
        ys.append(x.sin())
        return torch.cat(pair[0], 1), pair[1]
  )JIT",
                         {sample({2, 3})});
  // The tuple is lowered first; then nobody holds the list.
  EXPECT_EQ(count(graph, "aten::append"), 0);
  graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x]
        all = [ys]
        ys.append(x.sin())
        return torch.cat(all[x.dim() - 2], 1)
  )JIT",
                    {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 1);
}

TEST(Containers, OneListUnderTwoNamesStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x]
        zs = [x.cos()]
        if x.dim() == 2:
            zs = ys
        ys.append(x.sin())
        return torch.cat(zs, 1)
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 1);
}

TEST(Containers, AnAssignmentAtAPlaceThatOnlyTheRunKnowsStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x, x.cos()]
        ys[x.size(0) - 1] = x.sin()
        return torch.cat(ys, 1)
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::_set_item"), 1);
}

// The assignment reads what the list was, not what became of that other one.
TEST(Containers, AnAssignmentBehindAnExtensionByAListThatGrowsLater) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        zs = [x.cos()]
        if x.dim() == 3:
            zs.pop()
        ys = [x, x.exp()]
        ys += zs
        zs.append(x.sin())
        ys[1] = x.tanh()
        return torch.cat(ys, 1), torch.cat(zs, 1)
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 1);
  EXPECT_EQ(count(graph, "aten::_set_item"), 0);
}

// The list sees what is written into the tensor later.
TEST(Containers, ATensorThatIsWrittenBehindTheAppend) {
  for (const bool pops : {false, true}) {
    canonical(std::string(R"JIT(
    def forward(self, x):
        ys = [x.cos()]
        t = x + 1
        ys.append(t)
        t.add_(2)
        t.mul_(3)
        )JIT") + (pops ? "ys.pop(0)" : "ys.append(t)") +
                  R"JIT(
        return torch.cat(ys, 1)
  )JIT",
              {sample({2, 3})});
  }
}

TEST(Containers, AnAssignmentToWhatWasAppended) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys: List[Tensor] = []
        ys.append(x)
        ys.append(x.cos())
        ys += [x.sin(), x.exp()]
        ys[-1] = x.tanh()
        ys[1] = x.relu()
        return torch.cat(ys, 1)
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::_set_item"), 0);
  EXPECT_EQ(count(graph, "aten::add"), 0);
  EXPECT_EQ(count(graph, "prim::ListConstruct"), 1);
}

// The original raises; so must what comes of it.
TEST(Containers, AnAssignmentBehindTheEndStays) {
  Module m("M");
  m.define(R"JIT(
    def forward(self, x):
        ys = [x]
        ys[1] = x.sin()
        ys.append(x.cos())
        return torch.cat(ys, 1)
  )JIT");
  const GraphPtr graph = inlined(m);
  runPass(canonicalize, graph, m);
  EXPECT_EQ(count(graph, "aten::_set_item"), 1);
  EXPECT_ANY_THROW(evaluate(graph, {sample({2, 3})}, &m));
}

// Nobody knows how long the caller's list is.
TEST(Containers, AnAssignmentFromTheEndOfAListOfUnknownLengthStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x, x.cos()]
        ys += torch.chunk(x, 3, 0)
        ys[-1] = x.sin()
        return ys[0] + ys[1]
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::_set_item"), 1);
}

// A write into new storage is a value, whatever becomes of it behind the write;
// what a block around it hands in is older than the storage.
TEST(Writes, IntoWhatALoopOrABranchGetsLater) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        y = x.sin() + 0.5
        y += x
        for i in range(x.size(0)):
            z = y * 2
            z += y
            y = z
        if bool(y.sum() > 0):
            y = y.cos()
        return y
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::add_"), 0);
}

TEST(Writes, IntoWhatALoopHandedInStay) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        y = x.sin() + 0.5
        z = y
        for i in range(x.size(0)):
            y += x
            z = z + y
        return z
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::add_"), 1);
}

// What a reader of the list gets depends on when it reads.
TEST(Containers, NobodyReadsAListOfNumbersBeforeItIsWritten) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        s: List[int] = []
        for d in range(x.dim()):
            s.append(x.size(d))
        s[0] = -1
        s.insert(0, 1)
        y = x.reshape(s)
        s.pop()
        return y.sin().reshape(s + [2, 2])
  )JIT",
                         {sample({3, 4})});
  EXPECT_EQ(count(graph, "aten::insert"), 1);
}

TEST(Containers, PopStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x, x.cos()]
        y = ys.pop()
        return torch.cat(ys, 1) + y
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::pop"), 1);
}

TEST(Containers, SlicesOfALiteralAreLiterals) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        ys = [x, x.cos(), x.sin(), x.tanh()]
        return torch.cat(ys[1:] + ys[:-2], 1) + torch.stack(ys[::2]).sum()
  )JIT",
                         {sample({2, 3})});
  EXPECT_EQ(count(graph, "aten::slice"), 0);
}

// ------------------------------------------------------------------- unrolling

Module withNumbers() {
  Module m("M");
  m.register_attribute("groups", c10::IntType::get(), int64_t(3));
  m.register_attribute("depth", c10::IntType::get(), int64_t(4));
  m.register_attribute("odd", c10::BoolType::get(), true);
  m.register_attribute("training", c10::BoolType::get(), true);
  return m;
}

TEST(Loops, OverTheElementsOfAListAreUnrolled) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        xs = torch.chunk(x, self.groups, 1)
        y = xs[0]
        for i in range(1, self.groups):
            y = y.sin() * xs[i]
        return y
  )JIT",
                         {sample({2, 6})}, withNumbers());
  EXPECT_EQ(count(graph, "prim::Loop"), 0);
  EXPECT_EQ(count(graph, "aten::__getitem__"), 0);
  EXPECT_EQ(count(graph, "aten::sin"), 2);
}

TEST(Loops, OthersStayAndSoDoTheirTrips) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        for i in range(self.depth):
            x = x.sin() * float(i + 1)
        return x
  )JIT",
                         {sample({2, 6})}, withNumbers());
  EXPECT_EQ(count(graph, "prim::Loop"), 1);
  EXPECT_EQ(count(graph, "prim::GetAttr"), 1);
}

TEST(Loops, LeftEarlyStay) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        xs = torch.split(x, [2, 2, 2], 1)
        y = xs[0]
        for i in range(3):
            if bool(y.sum() > 100):
                break
            y = y.sin() * xs[i]
        return y
  )JIT",
                         {sample({2, 6})});
  EXPECT_EQ(count(graph, "prim::Loop"), 1);
}

TEST(Loops, InsideOfOneAnotherAreUnrolled) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        xs = torch.split(x, [2, 2, 2], 1)
        ys = [xs[0]]
        for i in range(3):
            for j in range(i):
                ys.append(xs[i] * xs[j])
        return torch.cat(ys, 1)
  )JIT",
                         {sample({2, 6})});
  EXPECT_EQ(count(graph, "prim::Loop"), 0);
  EXPECT_EQ(count(graph, "aten::mul"), 3);
}

// ------------------------------------------------------------ what is handed
// on

TEST(HandedOn, TuplesOfALoopAreItsStates) {
  auto graph = canonical(R"JIT(
    def step(self, s: Tuple[Tensor, Tensor]) -> Tuple[Tensor, Tensor]:
        return s[1].sin(), s[0] + s[1]
    def forward(self, x):
        s = (x, x.cos())
        for i in range(x.size(0)):
            s = self.step(s)
        return s
  )JIT",
                         {sample({3, 3})});
  EXPECT_EQ(count(graph, "prim::TupleUnpack"), 0);
  EXPECT_EQ(first(graph, "prim::Loop")->outputs().size(), 2u);
}

TEST(HandedOn, ListsOfOneLengthAreItsStates) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        s = [x, x.cos()]
        for i in range(x.size(0)):
            s = [s[1].sin(), s[0] + s[1]]
        return torch.cat(s, 1)
  )JIT",
                         {sample({3, 3})});
  EXPECT_EQ(count(graph, "aten::__getitem__"), 0);
  EXPECT_EQ(first(graph, "prim::Loop")->outputs().size(), 2u);
}

TEST(HandedOn, ListsOfTwoLengthsStay) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        s = [x]
        if x.size(0) == 3:
            s = [x.sin(), x]
        return torch.cat(s, 1)
  )JIT",
                         {sample({3, 3})});
  EXPECT_EQ(first(graph, "prim::If")->outputs().size(), 1u);
}

// A list that a branch shares with somebody else is not taken apart.
TEST(HandedOn, ASharedListStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        s = [x.cos(), x]
        t = [x, x.cos()]
        if x.size(0) == 3:
            t = s
        t.append(x)
        return torch.cat(s + t, 1)
  )JIT",
                         {sample({3, 3})});
  EXPECT_EQ(count(graph, "aten::append"), 1);
}

// -------------------------------------------------------- attributes that
// decide

const char* const kIfOdd = R"JIT(
    def forward(self, x):
        if self.odd:
            x = x.sin()
        else:
            x = x.cos()
        return x
)JIT";

TEST(Deciding, AFlagThatNobodyWritesDecides) {
  auto graph = canonical(kIfOdd, {sample({2, 6})}, withNumbers());
  EXPECT_EQ(count(graph, "aten::sin"), 1);
  EXPECT_EQ(count(graph, "aten::cos"), 0);
}

// Never silently another function: whoever changes the flag is told.
TEST(Deciding, AFlagThatIsChangedLaterRaises) {
  Module m = withNumbers();
  m.define(kIfOdd);
  const GraphPtr graph = inlined(m);
  runPass(canonicalize, graph, m);
  m.setattr("odd", false);
  try {
    evaluate(graph, {sample({2, 6})}, &m);
    FAIL() << "no exception";
  } catch (const std::exception& e) {
    EXPECT_NE(std::string(e.what()).find(
                  "odd decides which code the method runs, and was True"),
              std::string::npos)
        << e.what();
  }
  m.setattr("odd", true);
  EXPECT_EQ(evaluate(graph, {sample({2, 6})}, &m).size(), 2u);
}

TEST(Deciding, OfAnyPlainTypeAndThroughArithmetic) {
  Module m = withNumbers();
  m.register_attribute("name", c10::StringType::get(), std::string("glow"));
  m.register_attribute("rate", c10::FloatType::get(), 0.5);
  auto graph = canonical(R"JIT(
    def forward(self, x):
        if self.name == "glow" and 2 * self.groups > 5 and self.rate < 1.0:
            x = x.sin()
        return x * self.rate
  )JIT",
                         {sample({2, 6})}, m);
  EXPECT_EQ(count(graph, "aten::sin"), 1);
  EXPECT_EQ(count(graph, "prim::RaiseException"), 3);
}

// A check of the model's own is not turned into one of ours.
TEST(Deciding, AnIfThatOnlyRaisesStays) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        assert self.odd, "even"
        return x.sin()
  )JIT",
                         {sample({2, 6})}, withNumbers());
  EXPECT_EQ(count(graph, "prim::RaiseException"), 1);
  EXPECT_EQ(count(graph, "aten::ne"), 0);
}

TEST(Deciding, TrainingDoesNot) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        if self.training and self.odd:
            x = x.sin()
        else:
            x = x.cos()
        return x
  )JIT",
                         {sample({2, 6})}, withNumbers());
  // What is left are `training` and the check of `odd`.
  EXPECT_EQ(count(graph, "prim::If"), 2);
  EXPECT_EQ(count(graph, "prim::GetAttr"), 2);
}

TEST(Deciding, AFlagThatSomeMethodWritesDoesNot) {
  Module m = withNumbers();
  m.define(R"JIT(
    def flip(self):
        self.odd = not self.odd
  )JIT");
  auto graph = canonical(kIfOdd, {sample({2, 6})}, m);
  EXPECT_EQ(count(graph, "prim::If"), 1);
  EXPECT_EQ(count(graph, "prim::RaiseException"), 0);
}

// A number that decides nothing can be changed, and goes on having its effect.
TEST(Deciding, OtherNumbersStayAttributes) {
  auto graph = canonical(R"JIT(
    def forward(self, x):
        return x * self.depth
  )JIT",
                         {sample({2, 6})}, withNumbers());
  EXPECT_EQ(count(graph, "prim::GetAttr"), 1);
}

} // namespace
} // namespace inv::opt
