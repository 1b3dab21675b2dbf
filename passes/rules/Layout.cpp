// Operators that only move values: the same family undoes them.
//
//   permute(x, p)        => permute(y, inverse of p)
//   movedim(x, a, b)     => movedim(y, b, a)
//   transpose(x, a, b)   => transpose(y, a, b);  t, mT, adjoint likewise
//   view, reshape, flatten, unflatten => reshape(y, sizes of x)
//   squeeze, unsqueeze   => reshape(y, sizes of x)
//   contiguous, clone, inv::as_piece => y
//   type_as(x, t)        => y    where nobody else reads x; it stands behind an
//                                in-place sum and returns x but where dtypes
//                                differ, and then the step keeps its input
//   flip(x, dims)        => flip(y, dims);  roll by the negative shifts;
//                           rot90 by the negative turns
//   pixel_shuffle(x, r)  <=> pixel_unshuffle(x, r)
//   channel_shuffle(x, g) => channel_shuffle(y, channels / g)
//   im2col(x), unfold(x, d, k, k), of patches side by side => col2im, flatten
//
// Exact. Sizes of x are recorded in forward and handed to the inverse. Patches
// leave the last places out where x is no multiple of them, which the step
// looks at in forward. Not matched: permutations whose dimensions are not
// constants, patches that overlap.
#include "passes/rules/Match.h"
#include "passes/support/Symbols.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_set>

namespace inv::opt {

using namespace torch::jit;

namespace {

using Emit = std::function<std::vector<Value*>(InverseBuilder&)>;

Emit permuteBack(std::vector<int64_t> dims) {
  std::vector<int64_t> inverse(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    const int64_t d = dims[i] < 0 ? dims[i] + int64_t(dims.size()) : dims[i];
    if (d < 0 || d >= int64_t(dims.size()))
      return {};
    inverse[size_t(d)] = int64_t(i);
  }
  return [inverse](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::permute, {b.result(0), inverse})};
  };
}

Emit reshapeBack(Value* x) {
  return [x](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::reshape, {b.result(0), b.sizesOf(x)})};
  };
}

Emit rollBack(Node* n) {
  auto shifts = constantInts(n->input(1));
  auto dims = constantInts(n->input(2));
  if (!shifts || !dims)
    return {};
  for (int64_t& s : *shifts)
    s = -s;
  return [shifts = *shifts,
          dims = *dims](InverseBuilder& b) -> std::vector<Value*> {
    return {b.graph().insert(aten::roll, {b.result(0), shifts, dims})};
  };
}

/// The operator applied again with the same arguments behind the first.
Emit sameAgain(Node* n, Symbol kind) {
  std::vector<Value*> rest(n->inputs().begin() + 1, n->inputs().end());
  for (Value* v : rest)
    if (!toIValue(v) && !constantInts(v))
      return {};
  return [kind, rest](InverseBuilder& b) -> std::vector<Value*> {
    std::vector<NamedValue> arguments{b.result(0)};
    for (Value* v : rest)
      arguments.emplace_back(toIValue(v) ? *toIValue(v)
                                         : IValue(*constantInts(v)));
    return {b.graph().insert(kind, arguments)};
  };
}

Emit identity() {
  return [](InverseBuilder& b) -> std::vector<Value*> { return {b.result(0)}; };
}

Symbol named(const char* name) {
  return Symbol::fromQualString(std::string("aten::") + name);
}

/// movedim(x, source, destination), of numbers or lists of them.
Emit moveBack(Node* n) {
  if (n->inputs().size() != 3 ||
      (!constantInts(n->input(1)) && !constantInt(n->input(1))) ||
      (!constantInts(n->input(2)) && !constantInt(n->input(2))))
    return {};
  return [from = n->input(1), to = n->input(2)](InverseBuilder& b) {
    return std::vector<Value*>{b.graph().insert(
        aten::movedim, {b.result(0), b.operand(to), b.operand(from)})};
  };
}

Emit turnBack(Node* n) {
  const auto turns = constantInt(n->input(1));
  const auto dims = constantInts(n->input(2));
  if (!turns || !dims)
    return {};
  return [turns = -*turns, dims = *dims](InverseBuilder& b) {
    return std::vector<Value*>{
        b.graph().insert(named("rot90"), {b.result(0), turns, dims})};
  };
}

/// As a matrix of groups times channels of one, which is transposed.
Emit unshuffle(Node* n) {
  const auto groups = constantInt(n->input(1));
  if (!groups || *groups < 1)
    return {};
  return [kind = n->kind(), groups = *groups](InverseBuilder& b) {
    Graph& g = b.graph();
    Value* channels = g.insert(aten::size, {b.result(0), 1});
    Value* each = g.insert(named("floordiv"), {channels, groups});
    return std::vector<Value*>{g.insert(kind, {b.result(0), each})};
  };
}

/// Patches of an image as columns: kernel = stride, no padding, no dilation.
struct Columns {
  Value *kernel = nullptr, *dilation = nullptr, *padding = nullptr,
        *stride = nullptr;
};

std::optional<Columns> columnsOf(Node* n, size_t first) {
  const auto kernel = constantInts(n->input(first));
  const auto isAll = [](const std::optional<std::vector<int64_t>>& list,
                        int64_t wanted) {
    return list && std::all_of(list->begin(), list->end(),
                               [&](int64_t i) { return i == wanted; });
  };
  if (!kernel || kernel->size() != 2 ||
      constantInts(n->input(first + 3)) != kernel ||
      !isAll(constantInts(n->input(first + 1)), 1) ||
      !isAll(constantInts(n->input(first + 2)), 0))
    return std::nullopt;
  return Columns{n->input(first), n->input(first + 1), n->input(first + 2),
                 n->input(first + 3)};
}

const std::unordered_set<Symbol>& reshapes() {
  static const std::unordered_set<Symbol> kinds = {
      aten::view,    aten::reshape,   aten::flatten, aten::unflatten,
      aten::squeeze, aten::unsqueeze, aten::view_as, aten::reshape_as};
  return kinds;
}

Emit inverseOf(Node* n) {
  static const Symbol shuffle = Symbol::fromQualString("aten::pixel_shuffle");
  static const Symbol unshuffled =
      Symbol::fromQualString("aten::pixel_unshuffle");
  if (n->kind() == aten::permute) {
    auto dims = constantInts(n->input(1));
    return dims ? permuteBack(*dims) : Emit{};
  }
  if (n->kind() == aten::transpose || n->kind() == aten::t ||
      n->kind() == aten::flip)
    return sameAgain(n, n->kind());
  // view(x, dtype) reads the bits as other numbers.
  const bool asDtype = n->kind() == aten::view &&
                       n->input(1)->type()->kind() == c10::TypeKind::IntType;
  if (reshapes().count(n->kind()))
    return asDtype ? Emit{} : reshapeBack(n->input(0));
  static const std::unordered_set<Symbol> involutions = {
      named("mT"),      named("mH"),     named("adjoint"),
      named("numpy_T"), named("fliplr"), named("flipud")};
  if (involutions.count(n->kind()))
    return sameAgain(n, n->kind());
  if (n->kind() == aten::movedim)
    return moveBack(n);
  static const Symbol rot90 = named("rot90");
  if (n->kind() == rot90)
    return turnBack(n);
  static const Symbol channelShuffle = named("channel_shuffle"),
                      nativeShuffle = named("native_channel_shuffle");
  if (n->kind() == channelShuffle || n->kind() == nativeShuffle)
    return unshuffle(n);
  if (n->kind() == aten::contiguous || n->kind() == aten::clone ||
      n->kind() == sym::asPiece())
    return identity();
  if (n->kind() == aten::type_as && n->input(0)->uses().size() == 1)
    return identity();
  if (n->kind() == aten::roll)
    return rollBack(n);
  if (n->kind() == shuffle)
    return sameAgain(n, unshuffled);
  if (n->kind() == unshuffled)
    return sameAgain(n, shuffle);
  return {};
}

} // namespace

namespace {

/// 1 where each size is a multiple of the patch's.
Value* areMultiples(Graph& g,
                    const std::vector<std::pair<Value*, int64_t>>& sizes) {
  Value* all = nullptr;
  for (const auto& [size, patch] : sizes) {
    Value* rest = g.insert(aten::remainder, {size, patch});
    Value* fits = g.insert(aten::Int, {g.insert(aten::eq, {rest, 0})});
    all = all ? g.insert(aten::mul, {all, fits}) : fits;
  }
  return g.insert(aten::scalar_tensor, {all});
}

/// im2col, col2im and unfold of patches side by side; nothing else.
std::optional<Candidate> patchesCandidate(Node* n) {
  static const Symbol im2col = named("im2col"), col2im = named("col2im"),
                      unfold = named("unfold");
  Candidate c;
  Value* x = n->input(0);
  if (n->kind() == im2col) {
    const auto columns = columnsOf(n, 1);
    if (!columns)
      return std::nullopt;
    const std::vector<int64_t> kernel = *constantInts(columns->kernel);
    c.emit = [columns = *columns, x](InverseBuilder& b) {
      Graph& g = b.graph();
      Value* sizes = g.insert(aten::slice, {b.sizesOf(x), -2, kOpenEnd, 1});
      return std::vector<Value*>{g.insert(
          col2im, {b.result(0), sizes, b.operand(columns.kernel),
                   b.operand(columns.dilation), b.operand(columns.padding),
                   b.operand(columns.stride)})};
    };
    c.growth = [kernel, x](InverseBuilder& b) {
      return areMultiples(b.graph(), {{b.sizeOf(x, -2), kernel[0]},
                                      {b.sizeOf(x, -1), kernel[1]}});
    };
    return c;
  }
  if (n->kind() == col2im) {
    const auto columns = columnsOf(n, 2);
    if (!columns)
      return std::nullopt;
    c.emit = [columns = *columns](InverseBuilder& b) {
      return std::vector<Value*>{b.graph().insert(
          im2col,
          {b.result(0), b.operand(columns.kernel), b.operand(columns.dilation),
           b.operand(columns.padding), b.operand(columns.stride)})};
    };
    return c;
  }
  if (n->kind() != unfold || n->inputs().size() != 4)
    return std::nullopt;
  const auto dim = constantInt(n->input(1)), size = constantInt(n->input(2)),
             step = constantInt(n->input(3));
  if (!dim || !size || size != step || *size < 1)
    return std::nullopt;
  c.emit = [dim = *dim](InverseBuilder& b) {
    Graph& g = b.graph();
    // The patch's places behind the patches: both are the dimension again.
    const int64_t patches = dim < 0 ? dim - 1 : dim;
    Value* y = g.insert(aten::movedim, {b.result(0), -1, patches + 1});
    return std::vector<Value*>{
        g.insert(aten::flatten, {y, patches, patches + 1})};
  };
  c.growth = [dim = *dim, size = *size, x](InverseBuilder& b) {
    return areMultiples(b.graph(), {{b.sizeOf(x, dim), size}});
  };
  return c;
}

} // namespace

void layoutRule(NodeId id, const RuleContext& context,
                std::vector<Candidate>& out) {
  const Dataflow& flow = context.flow;
  Node* n = flow.node(id).node;
  if (n->inputs().empty() || n->outputs().size() != 1)
    return;
  const ValueId x = flow.idOf(n->input(0));
  if (x < 0 || !flow.value(x).isActivation() || !isTensor(flow.value(x)))
    return;
  Candidate c;
  if (auto patches = patchesCandidate(n)) {
    c = std::move(*patches);
    c.needsSizes = true;
  } else {
    c.emit = inverseOf(n);
    c.needsSizes = reshapes().count(n->kind()) != 0;
  }
  if (!c.emit)
    return;
  c.rule = "layout";
  c.cls = RuleClass::Free;
  c.solved = {x};
  out.push_back(std::move(c));
}

} // namespace inv::opt
