// Attention, as ATen's scaled_dot_product_attention.
#include "passes/import/onnx/ops/Support.h"

#include <limits>

namespace inv::opt::lower {

namespace {

/// [batch, steps, heads * width] to [batch, heads, steps, width].
Value* byHeads(Lowering& b, size_t i, int64_t heads) {
  if (b.rank(i) == 4)
    return b.in(i);
  if (heads < 1)
    b.refuse("has operands of three dimensions, and no number of heads");
  Number width = b.floorDivide(b.size(i, 2), heads);
  Value* x = b.call(
      "reshape",
      {b.in(i), b.list(Numbers{b.size(i, 0), b.size(i, 1), heads, width})});
  return b.call("transpose", {x, 1, 2});
}

/// Keys or values with those of the past before them.
Value* withPast(Lowering& b, Value* now, size_t past, size_t present) {
  Value* all =
      b.has(past)
          ? b.call("cat", {b.list(std::vector<Value*>{b.in(past), now}), 2})
          : now;
  if (b.wants(present))
    b.out(all, present);
  return all;
}

} // namespace

void attention(Lowering& b) {
  if (b.floatAttribute("softcap", 0) != 0)
    b.refuse("caps its scores (softcap)");
  if (b.wants(3))
    b.refuse("gives its scores (qk_matmul_output)");
  if (b.hasAttribute("softmax_precision") &&
      b.intAttribute("softmax_precision", 1) != 1)
    b.refuse("says the type that softmax computes in (softmax_precision)");
  if (b.intAttribute("left_window_size", -1) >= 0 ||
      b.intAttribute("right_window_size", -1) >= 0)
    b.refuse("looks through a window");
  if (b.has(6))
    b.refuse("has lengths of its keys (nonpad_kv_seqlen)");
  int64_t heads = b.intAttribute("q_num_heads", 0);
  int64_t keyHeads = b.intAttribute("kv_num_heads", heads);
  Value* q = byHeads(b, 0, heads);
  Value* k = withPast(b, byHeads(b, 1, keyHeads), 4, 1);
  Value* v = withPast(b, byHeads(b, 2, keyHeads), 5, 2);
  if (b.rank(0) == 4) {
    heads = b.shape(0)[1];
    keyHeads = b.shape(1)[1];
    if (heads < 0 || keyHeads < 0)
      b.refuse("has a number of heads that only the run can tell");
  }
  if (heads != keyHeads) {
    if (keyHeads < 1 || heads % keyHeads != 0)
      b.refuse("has heads that do not fit");
    k = b.call("repeat_interleave", {k, heads / keyHeads, 1});
    v = b.call("repeat_interleave", {v, heads / keyHeads, 1});
  }
  NamedValue mask = none();
  bool causal = b.intAttribute("is_causal", 0) != 0;
  if (causal && b.has(4))
    b.refuse("is causal and has keys of the past");
  if (b.has(3)) {
    Value* own = b.in(3);
    if (causal) {
      // Both: what lies above the diagonal is masked in the mask.
      Value* ones =
          b.call("ones", {b.list(Numbers{b.sizeOf(q, 2), b.sizeOf(k, 2)})},
                 {NamedValue("dtype", int64_t(at::kBool)),
                  NamedValue("device",
                             b.graph().insert(torch::jit::prim::device, {q}))});
      Value* seen = b.call("tril", {ones, 0});
      own = b.dtype(3) == at::kBool
                ? b.call("logical_and", {own, seen})
                : b.call("where",
                         {seen, own, -std::numeric_limits<double>::infinity()});
      if (b.dtype(3) != at::kBool)
        own = b.cast(own, b.dtype(3));
      causal = false;
    }
    mask = own;
  }
  Arguments arguments{q, k, v, mask, 0.0, causal};
  std::vector<NamedValue> keywords;
  if (b.hasAttribute("scale"))
    keywords.emplace_back("scale", b.floatAttribute("scale", 1));
  Value* y = b.call("scaled_dot_product_attention", arguments, keywords);
  if (b.rank(0) == 3) {
    y = b.call("transpose", {y, 1, 2});
    y = b.call("flatten", {y, 2, -1});
  }
  b.out(y);
}

} // namespace inv::opt::lower
