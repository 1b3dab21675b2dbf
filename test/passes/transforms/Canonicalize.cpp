#include "GraphTest.h"

namespace inv::opt {
namespace {

using namespace inv::opt::testing;

/// Canonicalizes a copy and checks that it computes the same bits.
GraphPtr canonical(const GraphPtr& graph,
                   const std::vector<at::Tensor>& inputs) {
  auto copy = graph->copy();
  runPass(canonicalize, copy);
  expectSame(graph, copy, inputs);
  return copy;
}

at::Tensor sample(const std::vector<int64_t>& sizes) {
  at::manual_seed(3);
  return at::randn(sizes);
}

// ------------------------------------------------------------------- lists

TEST(Canonicalize, IndexedChunkIsUnpacked) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %n : int = prim::Constant[value=2]()
  %d : int = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %l : Tensor[] = aten::chunk(%x, %n, %d)
  %a : Tensor = aten::__getitem__(%l, %zero)
  %b : Tensor = aten::__getitem__(%l, %d)
  %y : Tensor = aten::sub(%a, %b, %d)
  return (%y))IR"),
                         {sample({3, 8})});
  EXPECT_EQ(count(graph, "aten::__getitem__"), 0);
  EXPECT_EQ(count(graph, "prim::ListUnpack"), 1);
}

// chunk may give fewer pieces than asked for, and only indexing allows that.
TEST(Canonicalize, ChunkWithoutItsLastPieceStaysIndexed) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %n : int = prim::Constant[value=4]()
  %d : int = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %l : Tensor[] = aten::chunk(%x, %n, %d)
  %a : Tensor = aten::__getitem__(%l, %zero)
  %b : Tensor = aten::__getitem__(%l, %d)
  %y : Tensor = aten::sub(%a, %b, %d)
  return (%y))IR"),
                         {sample({3, 2})});
  EXPECT_EQ(count(graph, "aten::__getitem__"), 2);
}

TEST(Canonicalize, NegativeIndexOfAFixedSplitIsUnpacked) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %d : int = prim::Constant[value=1]()
  %last : int = prim::Constant[value=-1]()
  %p : int = prim::Constant[value=3]()
  %q : int = prim::Constant[value=5]()
  %sizes : int[] = prim::ListConstruct(%p, %q)
  %l : Tensor[] = aten::split_with_sizes(%x, %sizes, %d)
  %b : Tensor = aten::__getitem__(%l, %last)
  return (%b))IR"),
                         {sample({3, 8})});
  EXPECT_EQ(count(graph, "aten::__getitem__"), 0);
}

TEST(Canonicalize, TuplesDisappear) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor, %y : Tensor):
  %t : (Tensor, Tensor) = prim::TupleConstruct(%x, %y)
  %a : Tensor, %b : Tensor = prim::TupleUnpack(%t)
  %r : Tensor = aten::mul(%a, %b)
  return (%r))IR"),
                         {sample({2}), sample({2})});
  EXPECT_EQ(count(graph, "prim::TupleConstruct"), 0);
}

// ------------------------------------------------------------ reads, sizes

TEST(Canonicalize, EqualReadsOfAParameterAreOne) {
  torch::jit::Module module("M");
  module.register_parameter("w", at::ones({4}), false);
  module.define(R"PY(
def forward(self, x):
    return x * self.w + self.w
)PY");
  auto graph = inlined(module);
  ASSERT_EQ(count(graph, "prim::GetAttr"), 2);
  EXPECT_TRUE(runPass(canonicalize, graph, module));
  EXPECT_EQ(count(graph, "prim::GetAttr"), 1);
}

TEST(Canonicalize, ReadsAroundAWriteOfTheAttributeStay) {
  torch::jit::Module module("M");
  module.register_buffer("w", at::ones({4}));
  module.define(R"PY(
def forward(self, x):
    a = x * self.w
    self.w = a
    return a + self.w
)PY");
  auto graph = inlined(module);
  ASSERT_EQ(count(graph, "prim::GetAttr"), 2);
  runPass(canonicalize, graph, module);
  EXPECT_EQ(count(graph, "prim::GetAttr"), 2);
}

constexpr const char* kTracedHalf = R"IR(
graph(%x : Tensor, %y : Tensor):
  %one : int = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %max : int = prim::Constant[value=9223372036854775807]()
  %two : int = prim::Constant[value=2]()
  %s : int = aten::size(%x, %one)
  %t : Tensor = prim::NumToTensor(%s)
  %u : int = prim::Constant[value=2]()
  %tt : Tensor = prim::NumToTensor(%u)
  %h : Tensor = aten::floor_divide(%t, %tt)
  %i : int = aten::Int(%h)
  %x0 : Tensor = aten::slice(%x, %zero, %zero, %max, %one)
  %a : Tensor = aten::slice(%x0, %one, %zero, %i, %one)
  %h2 : Tensor = aten::floor_divide(%t, %tt)
  %j : int = aten::Int(%h2)
  %x1 : Tensor = aten::slice(%x, %zero, %zero, %max, %one)
  %b : Tensor = aten::slice(%x1, %one, %j, %max, %one)
  %r : Tensor = aten::add(%b, %y, %one)
  %l : Tensor[] = prim::ListConstruct(%a, %r)
  %c : Tensor = aten::cat(%l, %one)
  return (%c))IR";

TEST(Canonicalize, TracedHalvesBecomeOneSplitWithoutABakedSize) {
  auto graph = canonical(parse(kTracedHalf), {sample({3, 8}), sample({3, 4})});
  EXPECT_EQ(count(graph, "aten::slice"), 0);
  EXPECT_EQ(count(graph, "prim::NumToTensor"), 0);
  EXPECT_EQ(count(graph, "aten::floordiv"), 1);
  EXPECT_EQ(count(graph, "aten::tensor_split"), 1);
  // Another size, odd this time.
  expectSame(parse(kTracedHalf), graph, {sample({2, 7}), sample({2, 4})});
}

TEST(Canonicalize, SlicesWithAGapStay) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %one : int = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %max : int = prim::Constant[value=9223372036854775807]()
  %p : int = prim::Constant[value=3]()
  %q : int = prim::Constant[value=5]()
  %a : Tensor = aten::slice(%x, %one, %zero, %p, %one)
  %b : Tensor = aten::slice(%x, %one, %q, %max, %one)
  %c : Tensor = aten::sub(%a, %b, %one)
  return (%c))IR"),
                         {sample({3, 8})});
  EXPECT_EQ(count(graph, "aten::tensor_split"), 0);
}

TEST(Canonicalize, StridedSlicesStay) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %one : int = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %two : int = prim::Constant[value=2]()
  %max : int = prim::Constant[value=9223372036854775807]()
  %a : Tensor = aten::slice(%x, %one, %zero, %max, %two)
  %b : Tensor = aten::slice(%x, %one, %one, %max, %two)
  %c : Tensor = aten::sub(%a, %b, %one)
  return (%c))IR"),
                         {sample({3, 8})});
  EXPECT_EQ(count(graph, "aten::slice"), 2);
}

TEST(Canonicalize, ThreeSlicesCover) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %one : int = prim::Constant[value=1]()
  %none : NoneType = prim::Constant()
  %p : int = prim::Constant[value=2]()
  %q : int = prim::Constant[value=4]()
  %b : Tensor = aten::slice(%x, %one, %p, %q, %one)
  %c : Tensor = aten::slice(%x, %one, %q, %none, %one)
  %a : Tensor = aten::slice(%x, %one, %none, %p, %one)
  %l : Tensor[] = prim::ListConstruct(%c, %b, %a)
  %r : Tensor = aten::cat(%l, %one)
  return (%r))IR"),
                         {sample({3, 6})});
  EXPECT_EQ(count(graph, "aten::slice"), 0);
}

// -------------------------------------------------------------- identities

TEST(Canonicalize, DropoutWithProbabilityZeroIsGone) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %p : float = prim::Constant[value=0.]()
  %on : bool = prim::Constant[value=1]()
  %y : Tensor = aten::dropout(%x, %p, %on)
  %z : Tensor = aten::relu(%y)
  return (%z))IR"),
                         {sample({5})});
  EXPECT_EQ(count(graph, "aten::dropout"), 0);
}

TEST(Canonicalize, DropoutInTrainingStays) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %p : float = prim::Constant[value=0.5]()
  %on : bool = prim::Constant[value=1]()
  %y : Tensor = aten::dropout(%x, %p, %on)
  return (%y))IR"),
                         {sample({5})});
  EXPECT_EQ(count(graph, "aten::dropout"), 1);
}

// A random operator nobody reads still moves the generator on.
TEST(Canonicalize, UnreadRandomOperatorStays) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %p : float = prim::Constant[value=0.5]()
  %on : bool = prim::Constant[value=1]()
  %unread : Tensor = aten::dropout(%x, %p, %on)
  %y : Tensor = aten::dropout(%x, %p, %on)
  return (%y))IR"),
                         {sample({50})});
  EXPECT_EQ(count(graph, "aten::dropout"), 2);
}

// ---------------------------------------------------------------- in place

TEST(Canonicalize, ReluAndResidualInPlaceBecomeValues) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor, %w : Tensor):
  %one : int = prim::Constant[value=1]()
  %none : NoneType = prim::Constant()
  %h : Tensor = aten::linear(%x, %w, %none)
  %r : Tensor = aten::add_(%h, %x, %one)
  %y : Tensor = aten::relu_(%h)
  return (%y))IR"),
                         {sample({3, 4}), sample({4, 4})});
  EXPECT_EQ(count(graph, "aten::add_"), 0);
  EXPECT_EQ(count(graph, "aten::relu_"), 0);
}

// The sum of a float32 tensor and a float64 one is stored in float32.
TEST(Canonicalize, InPlaceSumKeepsTheDtype) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor, %z : Tensor):
  %one : int = prim::Constant[value=1]()
  %h : Tensor = aten::neg(%x)
  %r : Tensor = aten::add_(%h, %z, %one)
  return (%r))IR"),
                         {sample({3, 4}), sample({3, 4}).to(at::kDouble)});
  EXPECT_EQ(count(graph, "aten::add_"), 0);
}

TEST(Canonicalize, WriteToAnInputStays) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %y : Tensor = aten::relu_(%x)
  return (%y))IR"),
                         {sample({5})});
  EXPECT_EQ(count(graph, "aten::relu_"), 1);
}

TEST(Canonicalize, WriteSeenThroughAViewStays) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %zero : int = prim::Constant[value=0]()
  %h : Tensor = aten::neg(%x)
  %v : Tensor = aten::select(%h, %zero, %zero)
  %y : Tensor = aten::relu_(%h)
  %r : Tensor = aten::mul(%v, %y)
  return (%r))IR"),
                         {sample({3, 4})});
  EXPECT_EQ(count(graph, "aten::relu_"), 1);
}

// In evaluation dropout returns its operand, which no schema says.
TEST(Canonicalize, WriteSeenThroughADropoutStays) {
  auto graph = parse(R"IR(
graph(%x : Tensor, %on : bool):
  %p : float = prim::Constant[value=0.5]()
  %h : Tensor = aten::neg(%x)
  %v : Tensor = aten::dropout(%h, %p, %on)
  %y : Tensor = aten::relu_(%h)
  %r : Tensor = aten::add(%v, %y, %p)
  return (%r))IR");
  runPass(canonicalize, graph);
  EXPECT_EQ(count(graph, "aten::relu_"), 1);
}

// Written through whatever the dropout returned, which nobody else reads.
TEST(Canonicalize, ResidualBehindADropoutBecomesAValue) {
  auto original = parse(R"IR(
graph(%x : Tensor, %w : Tensor):
  %one : int = prim::Constant[value=1]()
  %n : int = prim::Constant[value=0]()
  %size : int = aten::size(%x, %n)
  %on : bool = aten::gt(%size, %one)
  %p : float = prim::Constant[value=0.5]()
  %none : NoneType = prim::Constant()
  %h : Tensor = aten::linear(%x, %w, %none)
  %v : Tensor = aten::dropout(%h, %p, %on)
  %y : Tensor = aten::add_(%v, %x, %one)
  return (%v))IR");
  auto graph = canonical(original, {sample({3, 4}), sample({4, 4})});
  EXPECT_EQ(count(graph, "aten::add_"), 0);
  expectSame(original, graph, {sample({1, 4}), sample({4, 4})});
}

// exp keeps its result for backward: the original throws there.
TEST(Canonicalize, WriteOfASavedResultStaysAnError) {
  auto original = parse(R"IR(
graph(%x : Tensor):
  %h : Tensor = aten::exp(%x)
  %y : Tensor = aten::relu_(%h)
  return (%y))IR");
  auto graph = original->copy();
  EXPECT_FALSE(runPass(canonicalize, graph));
  EXPECT_THROW(evaluate(graph, {sample({5})}), std::exception);
}

TEST(Canonicalize, WriteOfASavedOperandStaysAnError) {
  auto graph = parse(R"IR(
graph(%x : Tensor):
  %h : Tensor = aten::neg(%x)
  %m : Tensor = aten::mul(%h, %h)
  %y : Tensor = aten::relu_(%h)
  %r : Tensor = aten::mul(%m, %y)
  return (%r))IR");
  EXPECT_FALSE(runPass(canonicalize, graph));
  EXPECT_THROW(evaluate(graph, {sample({5})}), std::exception);
}

TEST(Canonicalize, WriteOfABufferStays) {
  torch::jit::Module module("M");
  module.register_buffer("n", at::zeros({}));
  module.define(R"PY(
def forward(self, x):
    self.n.add_(1)
    return x * self.n
)PY");
  auto graph = inlined(module);
  runPass(canonicalize, graph, module);
  EXPECT_EQ(count(graph, "aten::add_"), 1);
}

// ----------------------------------------------------- schedule and blocks

TEST(Canonicalize, ViewsMoveBehindTheirOperand) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %n : int = prim::Constant[value=2]()
  %d : int = prim::Constant[value=1]()
  %h : Tensor = aten::neg(%x)
  %e : Tensor = aten::exp(%x)
  %l : Tensor[] = aten::chunk(%h, %n, %d)
  %a : Tensor, %b : Tensor = prim::ListUnpack(%l)
  %y : Tensor = aten::sub(%a, %b, %d)
  %none : NoneType = prim::Constant()
  %z : Tensor = aten::sum(%e, %none)
  %r : Tensor = aten::mul(%y, %z)
  return (%r))IR"),
                         {sample({3, 8})});
  EXPECT_EQ(first(graph, "aten::chunk")->prev(), first(graph, "aten::neg"));
  EXPECT_EQ(first(graph, "aten::sum")->prev(), first(graph, "aten::exp"));
}

// The view shows what was written: before the write it would not be the same
// for a reshape that copies.
TEST(Canonicalize, ViewOfAWrittenValueDoesNotMove) {
  auto graph = canonical(parse(R"IR(
graph(%x : Tensor):
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %all : int = prim::Constant[value=-1]()
  %sizes : int[] = prim::ListConstruct(%all)
  %h : Tensor = aten::neg(%x)
  %t : Tensor = aten::transpose(%h, %zero, %one)
  %w : Tensor = aten::relu_(%t)
  %v : Tensor = aten::reshape(%t, %sizes)
  return (%v))IR"),
                         {sample({3, 4})});
  EXPECT_EQ(first(graph, "aten::reshape")->prev(), first(graph, "aten::relu_"));
}

TEST(Canonicalize, BlocksKeepTheirMeaning) {
  torch::jit::Module module("M");
  module.define(R"PY(
def forward(self, x, n: int):
    h = -x
    for i in range(n):
        if i % 2 == 0:
            h = torch.exp(h)
            h += x
        else:
            h = h * 2
            h.relu_()
    a = h[:, :2]
    b = h[:, 2:]
    return torch.cat([b, a], 1)
)PY");
  auto original = inlined(module);
  auto graph = original->copy();
  EXPECT_TRUE(runPass(canonicalize, graph, module));
  EXPECT_EQ(count(graph, "aten::tensor_split"), 1);
  const auto x = sample({3, 4});
  for (int64_t n : {0, 1, 4}) {
    std::vector<at::Tensor> results;
    for (const auto& version : {original, graph}) {
      torch::jit::Stack stack{module._ivalue(), x, n};
      torch::jit::Code code(version->copy(), "test");
      torch::jit::InterpreterState(code).run(stack);
      results.push_back(stack[0].toTensor());
    }
    EXPECT_TRUE(at::equal(results[0], results[1]));
  }
}

} // namespace
} // namespace inv::opt
