// Normalisations and dropout.
//
// In training form (`training_mode` 1) they follow the module: train() and
// eval() switch them, as they do in the model that was exported. Running
// statistics are then updated as PyTorch does, with the unbiased variance;
// ONNX's own text says the biased one, which only readers of those outputs get.
#include "passes/import/onnx/ops/Support.h"

#include <numeric>

namespace inv::opt::lower {

namespace {

/// The last dimensions, from `axis` on.
std::vector<int64_t> from(int64_t axis, int64_t rank) {
  std::vector<int64_t> dims(size_t(rank - axis));
  std::iota(dims.begin(), dims.end(), axis);
  return dims;
}

/// Sizes of operand 0 from `axis` on, as layer_norm is told them.
Numbers sizesFrom(Lowering& b, int64_t axis) {
  Numbers sizes;
  for (int64_t d = axis; d < b.rank(0); ++d)
    sizes.push_back(b.size(0, d));
  return sizes;
}

/// Whether operand `i` has exactly the sizes of operand 0 from `axis` on.
bool covers(Lowering& b, size_t i, int64_t axis) {
  const auto& x = b.shape(0);
  return b.shape(i) == std::vector<int64_t>(x.begin() + axis, x.end());
}

/// new = old * momentum + statistic * (1 - momentum), ONNX's definition.
Value* blended(Lowering& b, Value* old, Value* statistic, double momentum) {
  return b.call("add", {b.call("mul", {old, momentum}),
                        b.call("mul", {statistic, 1 - momentum})});
}

} // namespace

void batchNormalization(Lowering& b) {
  double epsilon = b.floatAttribute("epsilon", 1e-5);
  double momentum = b.floatAttribute("momentum", 0.9);
  Arguments arguments{b.in(0), b.in(1), b.in(2), b.in(3), b.in(4)};
  auto normalise = [&](const NamedValue& training) {
    auto all = arguments;
    all.insert(all.end(), {training, 1 - momentum, epsilon, true});
    b.out(b.call("batch_norm", all));
  };
  // Up to opset 13 the number of results said it.
  bool training = b.node().version < 14
                      ? b.outputs.size() > 1
                      : b.intAttribute("training_mode", 0) != 0;
  bool state =
      !b.operand(3).attribute.empty() && !b.operand(4).attribute.empty();
  if (!training && state)
    return normalise(NamedValue(c10::IValue(false)));
  if (!training) {
    // Computed, so that they have gradients, which aten::batch_norm has not.
    int64_t rank = b.rank(0);
    auto spread = [&](Value* v) { return along(b, v, rank, 1); };
    Value* variance = b.call("add", {spread(b.in(4)), epsilon});
    Value* factor =
        b.call("mul", {b.call("rsqrt", {variance}), spread(b.in(1))});
    Value* centred = b.call("sub", {b.in(0), spread(b.in(3))});
    return b.out(
        b.call("add", {b.call("mul", {centred, factor}), spread(b.in(2))}));
  }
  if (b.wants(1) || b.wants(2)) {
    // Before the statistics of the module are written.
    std::vector<int64_t> dims{0};
    for (int64_t d = 2; d < b.rank(0); ++d)
      dims.push_back(d);
    Value* mean = b.call("mean", {b.in(0), dims, false});
    Value* variance = b.call("var", {b.in(0), dims, false, false});
    b.out(blended(b, b.in(3), mean, momentum), 1);
    b.out(blended(b, b.in(4), variance, momentum), 2);
  }
  if (!state) {
    // Statistics that are no state of the module: somebody else keeps them.
    arguments[3] = arguments[4] = NamedValue(none());
    return normalise(NamedValue(c10::IValue(true)));
  }
  normalise(NamedValue(b.module().training()));
}

void dropout(Lowering& b) {
  double ratio = 0.5;
  if (b.has(1)) {
    auto known = b.constantScalar(1);
    if (!known)
      b.refuse("has a ratio that only the run can tell");
    // A float32 of what was written in decimals, as attributes are.
    ratio = b.dtype(1) == at::kFloat ? decimal(float(*known)) : *known;
  }
  // Training mode is an input: left out, it is inference.
  const at::Tensor* mode = b.has(2) ? b.constant(2) : nullptr;
  bool never = !b.has(2) || (mode && !mode->item().toBool());
  if (never) {
    identity(b);
    if (b.wants(1))
      b.out(b.call("ones_like", {b.in(0)},
                   {NamedValue("dtype", int64_t(at::kBool))}),
            1);
    return;
  }
  Value* training = mode ? b.module().training() : b.call("Bool", {b.in(2)});
  if (!b.wants(1))
    return b.out(b.call("dropout", {b.in(0), ratio, training}));
  auto results =
      b.unpack(b.call("native_dropout", {b.in(0), ratio, training}), 2);
  b.out(results[0]);
  b.out(results[1], 1);
}

void layerNormalization(Lowering& b) {
  int64_t rank = b.rank(0);
  int64_t axis = b.axis(b.intAttribute("axis", -1), rank);
  double epsilon = b.floatAttribute("epsilon", 1e-5);
  if (b.intAttribute("stash_type", 1) != 1)
    b.refuse("computes in another type than float32 (stash_type)");
  NamedValue scale = b.in(1);
  NamedValue bias = b.has(2) ? NamedValue(b.in(2)) : NamedValue(none());
  bool plain = covers(b, 1, axis) && (!b.has(2) || covers(b, 2, axis));
  Value* y = nullptr;
  Arguments arguments{b.in(0), b.list(sizesFrom(b, axis))};
  if (plain) {
    arguments.insert(arguments.end(), {scale, bias, epsilon});
    y = b.call("layer_norm", arguments);
  } else {
    arguments.insert(arguments.end(), {none(), none(), epsilon});
    y = b.call("mul", {b.call("layer_norm", arguments), scale});
    if (b.has(2))
      y = b.call("add", {y, bias});
  }
  b.out(y);
  if (!b.wants(1) && !b.wants(2))
    return;
  auto dims = from(axis, rank);
  // Of float32, whatever is normalised.
  auto statistic = [&](Value* v, size_t i) {
    b.out(b.dtype(0) == at::kFloat ? v : b.cast(v, at::kFloat), i);
  };
  statistic(b.call("mean", {b.in(0), dims, true}), 1);
  Value* variance = b.call("var", {b.in(0), dims, false, true});
  statistic(b.call("rsqrt", {b.call("add", {variance, epsilon})}), 2);
}

/// x / sqrt(mean(x^2) + epsilon) * scale
void rmsNormalization(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", -1), b.rank(0));
  double epsilon = b.floatAttribute("epsilon", 1e-5);
  if (b.intAttribute("stash_type", 1) != 1)
    b.refuse("computes in another type than float32 (stash_type)");
  Value* sizes = b.list(sizesFrom(b, axis));
  if (covers(b, 1, axis))
    return b.out(b.call("rms_norm", {b.in(0), sizes, b.in(1), epsilon}));
  Value* y = b.call("rms_norm", {b.in(0), sizes, none(), epsilon});
  b.out(b.call("mul", {y, b.in(1)}));
}

void groupNormalization(Lowering& b) {
  int64_t groups = b.intAttribute("num_groups", 0);
  double epsilon = b.floatAttribute("epsilon", 1e-5);
  if (groups < 1)
    b.refuse("has no groups");
  if (b.intAttribute("stash_type", 1) != 1)
    b.refuse("computes in another type than float32 (stash_type)");
  Value* scale = b.in(1);
  Value* bias = b.in(2);
  if (b.node().version < 21) { // one number for each group, not each channel
    Number channels = b.size(0, 1);
    Value* each = b.value(b.floorDivide(channels, groups));
    auto spread = [&](Value* v) {
      return b.call("repeat_interleave", {v, each, 0});
    };
    scale = spread(scale);
    bias = spread(bias);
  }
  b.outputs[0].type = b.operand(0).type; // ONNX has no rule of inference
  b.out(b.call("group_norm", {b.in(0), groups, scale, bias, epsilon, true}));
}

void instanceNormalization(Lowering& b) {
  double epsilon = b.floatAttribute("epsilon", 1e-5);
  b.out(b.call("instance_norm", {b.in(0), b.in(1), b.in(2), none(), none(),
                                 true, 0.1, epsilon, true}));
}

/// x / max(|x|_p, tiny), zero where the norm is.
void lpNormalization(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", -1), b.rank(0));
  Value* norm =
      b.call("linalg_vector_norm", {b.in(0), b.intAttribute("p", 2),
                                    std::vector<int64_t>{axis}, true});
  Value* zero = b.call("eq", {norm, 0});
  b.out(b.call("div", {b.in(0), b.call("masked_fill", {norm, zero, 1})}));
}

/// Across channels: x / (bias + alpha / size * sum x^2)^beta, a window of
/// `size` channels, of which ceil((size - 1) / 2) lie behind.
void localResponse(Lowering& b) {
  int64_t size = b.intAttribute("size", 1);
  int64_t rank = b.rank(0);
  if (size < 1 || rank < 2)
    b.refuse("has no channels to look at");
  Value* square = b.call("mul", {b.in(0), b.in(0)});
  square = padAxis(b, square, rank, 1, (size - 1) / 2, size / 2, 0.0);
  Value* windows = b.call("unfold", {square, 1, size, 1});
  Value* sum = b.call("sum", {windows, std::vector<int64_t>{-1}, false});
  Value* scaled =
      b.call("mul", {sum, b.floatAttribute("alpha", 1e-4) / double(size)});
  Value* base = b.call("add", {scaled, b.floatAttribute("bias", 1)});
  b.out(b.call(
      "div", {b.in(0), b.call("pow", {base, b.floatAttribute("beta", 0.75)})}));
}

/// (x - mean) / (deviation + 1e-9), as ONNX defines it.
void meanVariance(Lowering& b) {
  auto axes = b.hasAttribute("axes") ? b.intsAttribute("axes")
                                     : std::vector<int64_t>{0, 2, 3};
  axes = b.axes(axes, b.rank(0));
  Value* mean = b.call("mean", {b.in(0), axes, true});
  Value* centred = b.call("sub", {b.in(0), mean});
  Value* variance = b.call("var", {b.in(0), axes, false, true});
  Value* deviation = b.call("add", {b.call("sqrt", {variance}), 1e-9});
  b.outputs[0].type = b.operand(0).type; // ONNX has no rule of inference
  b.out(b.call("div", {centred, deviation}));
}

} // namespace inv::opt::lower
