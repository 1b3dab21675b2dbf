// Convolutions that map each patch of the image by one matrix.
//
//   y = conv1d / conv2d / conv3d (x, W, b)    kernel = stride, k places a patch
//       W: [out, in / groups, kernel...], out >= in * k
//   y = conv_transpose1d / 2d / 3d (x, W, b)  kernel = stride
//       W: [in, out / groups, kernel...], out * k >= in
//
// Where the kernel is as large as the stride, patches neither overlap nor leave
// a place out: per group it is a linear layer from the in * k numbers of a
// patch to the out channels of one place (transposed: from in channels to out *
// k numbers), and is undone as one (family "linear"). Kernel 1 is the simplest
// case, the Haar wavelet in groups another. The same conditions on the matrix
// of each group, the same refusals; rounding grows by the largest of their
// condition numbers. A convolution drops the last places of an image whose size
// is no multiple of the stride: the step compares the sizes in forward.
//
// Refused ("not-patchwise"): kernels above the stride, whose patches overlap;
// strides above the kernel; padding; dilation; arguments that are no constants.
#include "passes/rules/Match.h"
#include "passes/rules/WeightFactors.h"
#include "passes/rules/WeightSolve.h"
#include "passes/support/GraphRunner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace inv::opt {

using namespace torch::jit;

namespace {

/// What the node says, but for the kernel, which is the weight's.
struct Arguments {
  Value *x = nullptr, *weight = nullptr, *bias = nullptr;
  Value *stride = nullptr, *padding = nullptr, *dilation = nullptr;
  Value *outputPadding = nullptr, *groups = nullptr;
  bool transposed = false;
};

std::optional<Arguments> argumentsOf(Node* n) {
  static const Symbol general = Symbol::fromQualString("aten::_convolution");
  static const Symbol transposed[] = {
      Symbol::fromQualString("aten::conv_transpose1d"),
      Symbol::fromQualString("aten::conv_transpose2d"),
      Symbol::fromQualString("aten::conv_transpose3d")};
  if (n->inputs().size() < 7)
    return std::nullopt;
  Arguments a;
  a.x = n->input(0);
  a.weight = n->input(1);
  a.bias = isNone(n->input(2)) ? nullptr : n->input(2);
  a.stride = n->input(3);
  a.padding = n->input(4);
  if (n->kind() == aten::conv1d || n->kind() == aten::conv2d ||
      n->kind() == aten::conv3d) {
    a.dilation = n->input(5);
    a.groups = n->input(6);
    return a;
  }
  if (n->kind() == general || n->kind() == aten::convolution) {
    const std::optional<bool> flag = constantBool(n->input(6));
    if (!flag || n->inputs().size() < 9)
      return std::nullopt;
    a.dilation = n->input(5);
    a.transposed = *flag;
    a.outputPadding = a.transposed ? n->input(7) : nullptr;
    a.groups = n->input(8);
    return a;
  }
  if (std::find(std::begin(transposed), std::end(transposed), n->kind()) ==
          std::end(transposed) ||
      n->inputs().size() < 8)
    return std::nullopt;
  a.outputPadding = n->input(5);
  a.groups = n->input(6);
  a.dilation = n->input(7);
  a.transposed = true;
  return a;
}

/// One number for each of `count` dimensions; one number stands for all.
std::optional<std::vector<int64_t>> spread(Value* list, size_t count) {
  std::optional<std::vector<int64_t>> numbers = constantInts(list);
  if (auto one = constantInt(list))
    numbers = std::vector<int64_t>{*one};
  if (numbers && numbers->size() == 1)
    numbers->resize(count, numbers->front());
  return numbers && numbers->size() == count ? numbers : std::nullopt;
}

bool isValidPadding(const Value* v) {
  auto text = toIValue(v);
  return text && text->isString() && text->toStringRef() == "valid";
}

/// Why patches overlap, leave places out or reach beyond the image; empty where
/// they do not.
std::string whyNotPatchwise(const Arguments& a,
                            const std::vector<int64_t>& kernel) {
  const auto stride = spread(a.stride, kernel.size());
  if (!stride)
    return "its arguments are no constants";
  if (*stride != kernel)
    return fmt::format("kernel {}, stride {}", fmt::join(kernel, "x"),
                       fmt::join(*stride, "x"));
  const auto isAll = [&](Value* list, int64_t wanted) {
    const auto numbers = spread(list, kernel.size());
    return numbers && std::all_of(numbers->begin(), numbers->end(),
                                  [&](int64_t i) { return i == wanted; });
  };
  if (!isValidPadding(a.padding) && !isAll(a.padding, 0))
    return "padding";
  if (a.outputPadding && !isAll(a.outputPadding, 0))
    return "output padding";
  // Of a kernel of one place dilation says nothing.
  const bool isOne = std::all_of(kernel.begin(), kernel.end(),
                                 [](int64_t k) { return k == 1; });
  return isOne || isAll(a.dilation, 1) ? "" : "dilation";
}

/// A constant, or an attribute that the saved module has (`self.channels`),
/// which may be set to another number before training.
std::optional<int64_t> savedInt(Value* v, const RuleContext& context) {
  if (auto constant = constantInt(v))
    return constant;
  if (!context.self.isObject() || v->node()->kind() != prim::GetAttr)
    return std::nullopt;
  const auto value = evaluateStatic(v, context.self);
  return value && value->isInt() ? std::optional(value->toInt()) : std::nullopt;
}

/// How the numbers of a patch and of a place go together.
struct Patches {
  std::vector<int64_t> kernel;
  int64_t groups = 1;
  int64_t inside = 1;  ///< channels of a group on the side of the patches
  int64_t outside = 1; ///< channels of a group on the other side
  bool transposed = false;

  int64_t places() const {
    int64_t product = 1;
    for (int64_t k : kernel)
      product *= k;
    return product;
  }
  int64_t dims() const { return int64_t(kernel.size()); }
  bool plain() const { return places() == 1; }
  /// The operator may leave the last places of the image out.
  bool hasRest() const { return !transposed && !plain(); }
};

/// [groups, out, in] of the linear layer that each patch, or place, goes
/// through.
at::Tensor matricesOf(const at::Tensor& weight, const Patches& p) {
  const at::Tensor m =
      weight.reshape({p.groups, p.outside, p.inside * p.places()});
  return p.transposed ? m.transpose(1, 2) : m;
}

/// The same in the inverse.
Value* insertMatrices(Graph& g, Value* weight, const Patches& p) {
  Value* m = g.insert(aten::reshape,
                      {weight, std::vector<int64_t>{p.groups, p.outside,
                                                    p.inside * p.places()}});
  return p.transposed ? g.insert(aten::transpose, {m, 1, 2}) : m;
}

/// Where the dimensions behind the batch go, counted from the end.
struct Order {
  std::vector<int64_t> apart;    ///< places..., channels, kernel...
  std::vector<int64_t> together; ///< channels, (place, kernel)...
};

Order orderOf(int64_t dims) {
  Order o;
  const int64_t all = 2 * dims + 1;
  for (int64_t i = 0; i < dims; ++i) {
    o.apart.push_back(i - all);
    o.together.push_back(1 + 2 * i - all);
  }
  o.apart.push_back(dims - all);
  o.together.push_back(-all);
  for (int64_t i = 0; i < dims; ++i) {
    o.apart.push_back(dims + 1 + i - all);
    o.together.push_back(2 + 2 * i - all);
  }
  return o;
}

/// [..., channels, places...] → [..., places..., channels]
Value* channelsLast(Graph& g, Value* v, const Patches& p) {
  return g.insert(aten::movedim, {v, -(p.dims() + 1), -1});
}
Value* channelsBack(Graph& g, Value* v, const Patches& p) {
  return g.insert(aten::movedim, {v, -1, -(p.dims() + 1)});
}

/// [..., channels, place * kernel...] → [..., places..., channels * kernel]
Value* patchesLast(Graph& g, Value* v, const Patches& p) {
  if (p.plain())
    return channelsLast(g, v, p);
  for (int64_t i = p.dims(); i-- > 0;)
    v = g.insert(aten::unflatten,
                 {v, i - p.dims() - (p.dims() - 1 - i),
                  std::vector<int64_t>{-1, p.kernel[size_t(i)]}});
  const Order o = orderOf(p.dims());
  v = g.insert(aten::movedim, {v, o.together, o.apart});
  return g.insert(aten::flatten, {v, -(p.dims() + 1), -1});
}

/// The other way round; `sizes` are those of the result.
Value* patchesBack(Graph& g, Value* v, const Patches& p, Value* sizes) {
  std::vector<int64_t> patch{p.groups * p.inside};
  patch.insert(patch.end(), p.kernel.begin(), p.kernel.end());
  v = g.insert(aten::unflatten, {v, -1, patch});
  const Order o = orderOf(p.dims());
  v = g.insert(aten::movedim, {v, o.apart, o.together});
  return g.insert(aten::reshape, {v, sizes});
}

/// The bias as it stands beside channels that are followed by places.
Value* biasOf(Graph& g, Value* bias, const Patches& p) {
  std::vector<int64_t> sizes(size_t(p.dims()) + 1, 1);
  sizes[0] = -1;
  return g.insert(aten::reshape, {bias, sizes});
}

/// The matrix that a kernel of one place was made from: W of
/// W.unsqueeze(-1).unsqueeze(-1), or of a view with ones behind; null if none.
Value* matrixOf(Value* weight, const RuleContext& context) {
  for (int i = 0; i < 4 && !weight->node()->inputs().empty(); ++i) {
    if (const auto saved = savedValue(weight, context);
        saved && saved->dim() == 2)
      return weight;
    if (!makesView(weight->node()))
      return nullptr;
    const auto before = savedValue(weight->node()->input(0), context);
    const auto after = savedValue(weight, context);
    if (!before || !after || before->dim() < 2 ||
        before->sizes().slice(0, 2) != after->sizes().slice(0, 2) ||
        before->numel() != after->numel())
      return nullptr;
    weight = weight->node()->input(0);
  }
  return nullptr;
}

std::vector<Value*> undo(InverseBuilder& b, const Arguments& a,
                         const Patches& p, bool square,
                         const std::vector<MatrixFactor>& factors) {
  Graph& g = b.graph();
  Value* y = b.result(0);
  if (a.bias)
    y = g.insert(aten::sub, {y, biasOf(g, b.operand(a.bias), p)});
  y = p.transposed ? patchesLast(g, y, p) : channelsLast(g, y, p);
  if (!factors.empty())
    return {channelsBack(
        g, solveFactors(g, y, factors, [&b](Value* v) { return b.operand(v); }),
        p)};
  Value* matrices = insertMatrices(g, b.operand(a.weight), p);
  Value* x = solveGroups(g, y, matrices, p.groups, square);
  return {p.transposed || p.plain() ? channelsBack(g, x, p)
                                    : patchesBack(g, x, p, b.sizesOf(a.x))};
}

/// The condition number, or 0 where the image is no multiple of the stride, or
/// a buffer or the number of groups is not what it was.
Value* growthOf(InverseBuilder& b, const Arguments& a, const Patches& p,
                const std::vector<MatrixFactor>& factors, double condition) {
  Graph& g = b.graph();
  if (Value* check =
          checkFactors(g, factors, [&b](Value* v) { return b.operand(v); }))
    return g.insert(aten::mul, {check, condition});
  Value* whole = g.insertConstant(int64_t(1));
  if (!constantInt(a.groups))
    whole = g.insert(aten::Int,
                     {g.insert(aten::eq, {b.operand(a.groups), p.groups})});
  for (int64_t i = 0; p.hasRest() && i < p.dims(); ++i) {
    Value* size =
        g.insert(aten::mul, {g.insert(aten::size, {b.result(0), i - p.dims()}),
                             p.kernel[size_t(i)]});
    Value* fits = g.insert(
        aten::Int, {g.insert(aten::eq, {b.sizeOf(a.x, i - p.dims()), size})});
    whole = g.insert(aten::mul, {whole, fits});
  }
  return g.insert(aten::mul,
                  {g.insert(aten::scalar_tensor, {whole}), condition});
}

} // namespace

void convolutionRule(NodeId id, const RuleContext& context,
                     std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  const std::optional<Arguments> a =
      n->kind().is_aten() ? argumentsOf(n) : std::nullopt;
  if (!a)
    return;
  const ValueId x = flow.idOf(a->x), w = flow.idOf(a->weight);
  if (x < 0 || w < 0 || !flow.value(x).isActivation() ||
      flow.value(w).isActivation())
    return;
  Candidate c;
  c.rule = "convolution";
  c.cls = RuleClass::Solve;
  c.solved = {x};
  const auto refuse = [&](Reason reason, std::string detail) {
    c.refused = reason;
    c.detail = std::move(detail);
    out.push_back(std::move(c));
  };
  const std::optional<at::Tensor> saved = savedValue(a->weight, context);
  if (!saved || saved->dim() < 3)
    return refuse(Reason::WeightUnknown, nameOf(a->weight));
  Patches p;
  p.kernel = saved->sizes().slice(2).vec();
  p.transposed = a->transposed;
  if (std::string why = whyNotPatchwise(*a, p.kernel); !why.empty()) {
    c.quiet = true;
    return refuse(Reason::NotPatchwise, std::move(why));
  }
  const auto groups = savedInt(a->groups, context);
  if (!groups)
    return refuse(Reason::NotPatchwise, nameOf(a->groups));
  p.groups = *groups;
  if (p.groups < 1 || saved->size(0) % p.groups != 0)
    return; // the operator will say so itself
  p.outside = saved->size(0) / p.groups;
  p.inside = saved->size(1);
  const WeightFacts facts = lookAtMatrix(matricesOf(*saved, p), context);
  c.refused = facts.refused;
  c.detail = facts.detail;
  c.amplification = std::max(1.0, facts.condition);
  std::vector<MatrixFactor> factors;
  const bool square = facts.in == facts.out;
  if (square && p.plain() && !p.transposed && p.groups == 1 && !facts.refused)
    if (Value* matrix = matrixOf(a->weight, context))
      factors = factorsOf(matrix, /*transposed=*/false, context);
  if (factors.empty())
    c.others = {w};
  bool checks = p.hasRest() || !constantInt(a->groups);
  for (const MatrixFactor& f : factors) {
    c.others.push_back(flow.idOf(f.value));
    for (Value* v : f.toCheck)
      c.others.push_back(flow.idOf(v));
    checks |= !f.toCheck.empty();
  }
  if (a->bias)
    c.others.push_back(flow.idOf(a->bias));
  c.resizes = !square;
  c.emit = [a = *a, p, square, factors](InverseBuilder& b) {
    return undo(b, a, p, square, factors);
  };
  c.needsSizes = p.hasRest();
  if (checks)
    c.growth = [a = *a, p, factors,
                condition = c.amplification](InverseBuilder& b) {
      return growthOf(b, a, p, factors, condition);
    };
  out.push_back(std::move(c));
}

} // namespace inv::opt
