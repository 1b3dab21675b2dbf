// inv::resplit and inv::as_piece against ATen.
#include "Steps.h"

#include "inv/Abi.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace inv::test {
namespace {

Tensors resplit(const Tensors& parts, int64_t partsDim, const char* how,
                std::vector<int64_t> args, int64_t dim) {
  return callOp(abi::kResplit, {parts, partsDim, how, std::move(args), dim})
      .toTensorVector();
}

at::Tensor asPiece(const at::Tensor& part, int64_t dim, int64_t offset,
                   int64_t total) {
  return callOp(abi::kAsPiece, {part, dim, offset, total}).toTensor();
}

Tensors aten(const at::Tensor& t, const std::string& how,
             const std::vector<int64_t>& args, int64_t dim) {
  if (how == "chunk")
    return t.chunk(args.at(0), dim);
  if (how == "split")
    return t.split(args.at(0), dim);
  if (how == "split_with_sizes")
    return t.split_with_sizes(args, dim);
  return t.tensor_split(c10::IntArrayRef(args), dim);
}

bool sameTensors(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size())
    return false;
  for (size_t i = 0; i < a.size(); i++)
    if (!a[i].is_same(b[i]))
      return false;
  return true;
}

/// resplit gives what ATen gives, whatever the parts; and where the parts are
/// the pieces, it gives the parts.
void check(int64_t total, const std::string& how,
           const std::vector<int64_t>& args) {
  const std::string name = how + " of " + std::to_string(total);
  const at::Tensor whole = at::arange(2 * total).reshape({2, total});
  Tensors pieces;
  const std::string refusal =
      messageOf([&] { pieces = aten(whole, how, args, 1); });
  if (!refusal.empty()) {
    EXPECT_NE(messageOf([&] { resplit({whole}, 1, how.c_str(), args, 1); }), "")
        << name;
    return;
  }
  int64_t sum = 0; // indices out of order give pieces that overlap
  for (const at::Tensor& t : pieces)
    sum += t.size(1);
  for (int64_t dim : {int64_t(1), int64_t(-1)}) {
    if (sum != total)
      break;
    const Tensors same = resplit(pieces, 1, how.c_str(), args, dim);
    EXPECT_TRUE(sameTensors(same, pieces)) << name;
  }
  // Other parts: a real cat and split.
  for (int64_t cut = 0; cut <= total; cut++) {
    const Tensors parts = {whole.narrow(1, 0, cut),
                           whole.narrow(1, cut, total - cut)};
    const Tensors ours = resplit(parts, 1, how.c_str(), args, 1);
    ASSERT_EQ(ours.size(), pieces.size()) << name;
    for (size_t i = 0; i < ours.size(); i++)
      EXPECT_TRUE(at::equal(ours[i], pieces[i])) << name << " piece " << i;
  }
}

TEST(Resplit, AgreesWithChunk) {
  for (int64_t total = 0; total <= 13; total++)
    for (int64_t chunks = 0; chunks <= 15; chunks++)
      check(total, "chunk", {chunks});
}

TEST(Resplit, AgreesWithSplit) {
  for (int64_t total = 0; total <= 13; total++)
    for (int64_t size = 0; size <= 15; size++)
      check(total, "split", {size});
}

TEST(Resplit, AgreesWithSplitWithSizes) {
  for (int64_t total = 0; total <= 6; total++)
    for (int64_t a = 0; a <= 6; a++)
      for (int64_t b = 0; b <= 6; b++)
        check(total, "split_with_sizes", {a, b, total - a - b});
}

TEST(Resplit, AgreesWithTensorSplit) {
  for (int64_t total = 0; total <= 6; total++)
    for (int64_t a = -8; a <= 8; a++)
      for (int64_t b = -8; b <= 8; b++)
        check(total, "tensor_split", {a, b});
}

TEST(Resplit, AlongAnotherDimensionReallySplits) {
  const Tensors parts = {at::randn({4, 2}), at::randn({4, 2})};
  const Tensors pieces = resplit(parts, 1, "chunk", {2}, 0);
  EXPECT_TRUE(at::equal(pieces[0], at::cat(parts, 1).chunk(2, 0)[0]));
}

TEST(Resplit, PartsThatCatWouldPromoteAreNotHandedThrough) {
  const Tensors parts = {at::ones({2, 2}), at::ones({2, 2}, at::kDouble)};
  const Tensors pieces = resplit(parts, 1, "chunk", {2}, 1);
  EXPECT_EQ(pieces[0].scalar_type(), at::kDouble);
}

TEST(Resplit, GradientsPass) {
  for (int64_t cut : {2, 1}) { // the pieces themselves; a real split
    const at::Tensor x = at::randn({3, 4}).requires_grad_();
    const Tensors parts = {x.narrow(1, 0, cut), x.narrow(1, cut, 4 - cut)};
    const Tensors pieces = resplit(parts, 1, "chunk", {2}, 1);
    (pieces[0] * 2 + pieces[1] * 3).sum().backward();
    EXPECT_TRUE(at::equal(x.grad(),
                          at::tensor({2, 2, 3, 3}, at::kFloat).expand({3, 4})));
  }
}

TEST(Resplit, AnUnknownOperatorIsAnError) {
  EXPECT_NE(messageOf([] {
              resplit({at::ones({2})}, 0, "cut", {1}, 0);
            }).find("unknown operator 'cut'"),
            std::string::npos);
}

TEST(AsPiece, HasThePiecesStridesAndOffset) {
  const at::Tensor full = at::randn({2, 6, 5});
  const at::Tensor piece = full.narrow(1, 2, 3);
  const at::Tensor ours = asPiece(piece.contiguous(), 1, 2, 6);
  EXPECT_TRUE(at::equal(ours, piece));
  EXPECT_EQ(ours.strides(), piece.strides());
  EXPECT_EQ(ours.storage_offset(), piece.storage_offset());
}

TEST(AsPiece, KeepsTheMemoryFormat) {
  const at::Tensor full =
      at::randn({2, 6, 5, 3}).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor piece = full.narrow(1, 3, 3);
  const at::Tensor part = piece.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor ours = asPiece(part, 1, 3, 6);
  EXPECT_TRUE(at::equal(ours, piece));
  EXPECT_EQ(ours.strides(), piece.strides());
}

TEST(AsPiece, TheGradientPassesTwice) {
  const at::Tensor x = at::randn({2, 3}, at::kDouble).requires_grad_();
  const at::Tensor y = asPiece(x, -1, 1, 5);
  const at::Tensor g =
      torch::autograd::grad({(y * y * y).sum()}, {x}, {}, true, true)[0];
  EXPECT_TRUE(at::allclose(g, 3 * x * x));
  const at::Tensor gg = torch::autograd::grad({g.sum()}, {x})[0];
  EXPECT_TRUE(at::allclose(gg, 6 * x));
}

TEST(AsPiece, ThatDoesNotFitIsAnError) {
  EXPECT_NE(messageOf([] { asPiece(at::ones({2, 3}), 1, 3, 5); }), "");
}

} // namespace
} // namespace inv::test
