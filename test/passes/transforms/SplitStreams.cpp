#include "GraphTest.h"

#include "inv/Abi.h"
#include "passes/transforms/LayoutSensitivity.h"

#include <torch/csrc/jit/runtime/operator.h>

namespace inv::opt {
namespace {

using namespace inv::opt::testing;

bool runtimeIsThere() {
  return !torch::jit::getAllOperatorsFor(
              c10::Symbol::fromQualString(abi::kResplit))
              .empty();
}

/// A block boundary: two parts, a concatenation along 1, `split` of it, and a
/// reader of each piece.
GraphPtr boundary(const std::string& split, const std::string& readers) {
  return parse(R"IR(
graph(%x : Tensor, %y : Tensor):
  %d : int = prim::Constant[value=1]()
  %n : int = prim::Constant[value=2]()
  %three : int = prim::Constant[value=3]()
  %five : int = prim::Constant[value=5]()
  %none : str = prim::Constant[value="none"]()
  %x1 : Tensor = aten::exp(%x)
  %x2 : Tensor = aten::exp(%y)
  %parts : Tensor[] = prim::ListConstruct(%x1, %x2)
  %c : Tensor = aten::cat(%parts, %d)
)IR" + split + R"IR(
  %a : Tensor, %b : Tensor = prim::ListUnpack(%l)
)IR" + readers);
}

constexpr const char* kChunk = "  %l : Tensor[] = aten::chunk(%c, %n, %d)";
constexpr const char* kSum = R"IR(
  %r : Tensor = aten::tanh(%a)
  %s : Tensor = aten::tanh(%b)
  %o : (Tensor, Tensor) = prim::TupleConstruct(%r, %s)
  return (%o))IR";

std::vector<at::Tensor> inputs(int64_t p, int64_t q) {
  at::manual_seed(1);
  return {at::randn({3, p, 5, 7}), at::randn({3, q, 5, 7})};
}

/// Splits the streams of a copy; checks the bits where the runtime has the
/// operators, and that inline-steps gives the same bits back.
GraphPtr splitCopy(const GraphPtr& graph, const std::vector<at::Tensor>& in,
                   const Options& options = {}) {
  auto copy = graph->copy();
  runPass(splitStreams, copy, torch::jit::Module("M"), options);
  if (runtimeIsThere()) {
    const auto before = evaluate(graph, in), after = evaluate(copy, in);
    for (size_t i = 0; i < graph->outputs().size(); ++i)
      EXPECT_TRUE(at::equal(before[i], after[i])) << copy->toString(false);
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(at::allclose(before[i], after[i], 1e-6, 1e-6));
  }
  auto back = copy->copy();
  runPass(inlineSteps, back);
  expectSame(graph, back, in);
  return copy;
}

TEST(SplitStreams, ChunkOfCat) {
  auto graph = splitCopy(boundary(kChunk, kSum), inputs(4, 4));
  EXPECT_EQ(count(graph, "aten::cat"), 0);
  EXPECT_EQ(count(graph, abi::kResplit), 1);
  EXPECT_EQ(count(graph, abi::kAsPiece), 0);
}

TEST(SplitStreams, UnequalHalves) {
  auto graph = splitCopy(boundary(R"IR(
  %sizes : int[] = prim::ListConstruct(%three, %five)
  %l : Tensor[] = aten::split_with_sizes(%c, %sizes, %d))IR",
                                  kSum),
                         inputs(3, 5));
  EXPECT_EQ(count(graph, abi::kResplit), 1);
}

// Only the run can tell that the pieces are not the parts.
TEST(SplitStreams, PiecesThatAreNotThePartsStillCompute) {
  auto graph = splitCopy(boundary(kChunk, kSum), inputs(3, 5));
  EXPECT_EQ(count(graph, abi::kResplit), 1);
}

TEST(SplitStreams, TensorSplitByIndicesAndBySections) {
  auto indices = splitCopy(boundary(R"IR(
  %at : int[] = prim::ListConstruct(%three)
  %l : Tensor[] = aten::tensor_split(%c, %at, %d))IR",
                                    kSum),
                           inputs(3, 5));
  EXPECT_EQ(count(indices, abi::kResplit), 1);
  auto sections = splitCopy(
      boundary("  %l : Tensor[] = aten::tensor_split(%c, %n, %d)", kSum),
      inputs(4, 4));
  EXPECT_EQ(count(sections, abi::kResplit), 1);
}

TEST(SplitStreams, DifferentNumberOfPiecesStays) {
  auto graph = parse(R"IR(
graph(%x : Tensor, %y : Tensor):
  %d : int = prim::Constant[value=1]()
  %n : int = prim::Constant[value=3]()
  %parts : Tensor[] = prim::ListConstruct(%x, %y)
  %c : Tensor = aten::cat(%parts, %d)
  %l : Tensor[] = aten::chunk(%c, %n, %d)
  %a : Tensor, %b : Tensor, %e : Tensor = prim::ListUnpack(%l)
  %r : Tensor = aten::mul(%a, %e)
  return (%r))IR");
  EXPECT_FALSE(runPass(splitStreams, graph));
}

TEST(SplitStreams, WrittenPieceStays) {
  auto graph = boundary(kChunk, R"IR(
  %r : Tensor = aten::relu_(%a)
  %o : Tensor = aten::mul(%r, %b)
  return (%o))IR");
  EXPECT_FALSE(runPass(splitStreams, graph));
}

TEST(SplitStreams, OtherReaderKeepsTheCat) {
  auto graph = splitCopy(boundary(kChunk, R"IR(
  %r : Tensor = aten::mul(%a, %b)
  %m : Tensor = aten::tanh(%c)
  %o : (Tensor, Tensor) = prim::TupleConstruct(%r, %m)
  return (%o))IR"),
                         inputs(4, 4));
  EXPECT_EQ(count(graph, "aten::cat"), 1);
  EXPECT_EQ(count(graph, abi::kResplit), 1);
}

// ------------------------------------------------------------------ strides

constexpr const char* kGelu = R"IR(
  %g : Tensor = aten::gelu(%b, %none)
  %r : Tensor = aten::add(%a, %g, %d)
  %h : Tensor = aten::gelu(%b, %none)
  %s : Tensor = aten::add(%b, %h, %d)
  %o : (Tensor, Tensor) = prim::TupleConstruct(%r, %s)
  return (%o))IR";

TEST(SplitStreams, SensitiveReadersShareOneCopy) {
  auto graph = splitCopy(boundary(kChunk, kGelu), inputs(4, 4));
  ASSERT_EQ(count(graph, abi::kAsPiece), 1);
  auto* piece = first(graph, abi::kAsPiece)->output();
  EXPECT_EQ(piece->uses().size(), 2u); // not the sum
}

TEST(SplitStreams, SensitiveReaderBehindAView) {
  auto graph = splitCopy(boundary(kChunk, R"IR(
  %t : Tensor = aten::transpose(%b, %d, %n)
  %g : Tensor = aten::gelu(%t, %none)
  %o : (Tensor, Tensor) = prim::TupleConstruct(%a, %g)
  return (%o))IR"),
                         inputs(4, 4));
  EXPECT_EQ(count(graph, abi::kAsPiece), 1);
}

TEST(SplitStreams, FastLayoutCopiesNothing) {
  Options options;
  options.layout = Layout::Fast;
  auto graph = boundary(kChunk, kGelu);
  EXPECT_TRUE(runPass(splitStreams, graph, torch::jit::Module("M"), options));
  EXPECT_EQ(count(graph, abi::kAsPiece), 0);
}

// ------------------------------------------- the table of LayoutSensitivity

/// Each entry of the table as TorchScript, on pieces of chunks against
/// contiguous copies, in several geometries and both dtypes.
class Insensitive : public ::testing::TestWithParam<const char*> {};

GraphPtr expression(const std::string& text) {
  torch::jit::Module module("M");
  module.define("def forward(self, x, y, w, v):\n    return " + text + "\n");
  auto graph = inlined(module);
  graph->inputs()[0]->replaceAllUsesWith(graph->inputs()[1]);
  graph->eraseInput(0);
  return graph;
}

TEST_P(Insensitive, GivesTheSameBits) {
  auto graph = expression(GetParam());
  EXPECT_FALSE(hasSensitiveReader(graph->inputs()[0])) << "is not in the table";
  for (auto dtype : {at::kFloat, at::kDouble})
    for (auto sizes : {std::vector<int64_t>{2, 8, 5, 5},
                       {3, 6, 7, 9},
                       {2, 64, 4, 4},
                       {1, 34, 13, 11}})
      for (int64_t first : {int64_t{1}, sizes[1] / 2, sizes[1] - 3}) {
        at::manual_seed(11);
        const auto options = at::TensorOptions().dtype(dtype);
        const auto whole = at::randn(sizes, options) * 2;
        for (const auto& view : {whole.narrow(1, 0, first),
                                 whole.narrow(1, first, sizes[1] - first)}) {
          const auto channels = view.size(1), last = view.size(3);
          const auto y = at::randn(view.sizes(), options);
          const auto w = at::randn({4, channels, 3, 3}, options);
          const auto v = at::randn({last}, options);
          std::vector<at::Tensor> results;
          for (const auto& x : {view, view.contiguous()}) {
            torch::jit::Stack stack{x, y, w, v};
            torch::jit::Code code(graph->copy(), "test");
            torch::jit::InterpreterState(code).run(stack);
            results.push_back(stack[0].toTensor());
          }
          EXPECT_TRUE(
              at::equal(results[0].nan_to_num(), results[1].nan_to_num()));
          EXPECT_EQ(results[0].strides(), results[1].strides());
        }
      }
}

INSTANTIATE_TEST_SUITE_P(
    Table, Insensitive,
    ::testing::Values(
        "x + y", "y - x", "x * y", "x / y", "x + 0.3", "x * 0.3", "x / 3.7",
        "-x", "torch.abs(x)", "torch.relu(x)", "torch.leaky_relu(x, 0.1)",
        "torch.hardtanh(x, -1.0, 1.0)", "torch.hardswish(x)",
        "torch.hardsigmoid(x)", "torch.clamp(x, -1, 1)", "torch.sqrt(x)",
        "torch.reciprocal(x)", "torch.square(x)", "torch.sign(x)",
        "torch.floor(x)", "torch.maximum(x, y)", "torch.minimum(x, y)",
        "torch.where(y > 0, x, y)", "torch.masked_fill(x, y > 0, 0.5)",
        "torch.exp(x)", "torch.expm1(x)", "torch.log(x)", "torch.log1p(x)",
        "torch.tanh(x)", "torch.sin(x)", "torch.cos(x)", "torch.pow(x, 2)",
        "torch.pow(x, 3)", "x > y", "torch.cat([x, y], 1)",
        "torch.stack([x, y])", "torch.conv2d(x, w, None, [1, 1], [1, 1])",
        "torch.conv2d(x, w, None, [2, 2])",
        "torch.layer_norm(x, [x.size(3)], v, v)",
        "torch.group_norm(x, 1, None, None)", "torch.softmax(x, -1)",
        "torch.softmax(x, 1)", "torch.log_softmax(x, -1)",
        "torch.max_pool2d(x, [2, 2])", "torch.avg_pool2d(x, [2, 2])",
        "torch.adaptive_avg_pool2d(x, [1, 1])",
        "torch.adaptive_avg_pool2d(x, [2, 2])"));

// The measured differences: should ATen lose one, the table can grow.
class NotInTable : public ::testing::TestWithParam<const char*> {};

TEST_P(NotInTable, IsSensitive) {
  auto graph = expression(GetParam());
  EXPECT_TRUE(hasSensitiveReader(graph->inputs()[0]));
}

INSTANTIATE_TEST_SUITE_P(
    Known, NotInTable,
    ::testing::Values("torch.gelu(x)", "torch.sigmoid(x)", "torch.silu(x)",
                      "torch.add(x, y, alpha=0.3)", "torch.sum(x)",
                      "torch.matmul(x, y.transpose(2, 3))",
                      "torch.sigmoid(x.view([x.size(0), -1]))",
                      "torch.batch_norm(x, None, None, None, None, True, 0.1, "
                      "1e-5, True)",
                      "torch.rsqrt(x)", "torch.pow(x, 2.5)"));

} // namespace
} // namespace inv::opt
