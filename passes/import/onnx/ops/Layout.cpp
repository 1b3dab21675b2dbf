// Operators that move elements and change no value.
#include "passes/import/onnx/ops/Support.h"

#include "passes/support/GraphUtil.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace inv::opt::lower {

void shape(Lowering& b) {
  int64_t rank = b.rank(0);
  auto bound = [&](const char* name, int64_t otherwise) {
    int64_t at = b.intAttribute(name, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  Numbers sizes;
  for (int64_t d = bound("start", 0), end = bound("end", rank); d < end; ++d)
    sizes.push_back(b.size(0, d));
  b.outputs[0].numbers = std::move(sizes);
}

void size(Lowering& b) {
  Number all = 1;
  for (int64_t d = 0; d < b.rank(0); ++d)
    all = b.mul(all, b.size(0, d));
  b.outputs[0].numbers = Numbers{all};
}

namespace {

/// A list of ints, as a constant where all are known.
NamedValue sizesOf(Lowering& b, const Numbers& numbers) {
  std::vector<int64_t> known;
  for (const auto& number : numbers)
    if (number.known)
      known.push_back(*number.known);
  if (known.size() == numbers.size())
    return c10::IValue(known);
  return b.list(numbers);
}

} // namespace

void reshape(Lowering& b) {
  Numbers to = b.numbers(1);
  if (b.intAttribute("allowzero", 0) == 0)
    for (size_t d = 0; d < to.size(); ++d)
      if (to[d].known == 0)
        to[d] = b.size(0, int64_t(d));
  b.out(b.call("reshape", {b.in(0), sizesOf(b, to)}));
}

void flatten(Lowering& b) {
  int64_t rank = b.rank(0);
  int64_t axis = b.intAttribute("axis", 1);
  axis = axis == rank ? rank : b.axis(axis, rank);
  Value* x = b.in(0);
  if (axis == 0)
    return b.out(b.call("reshape", {x, std::vector<int64_t>{1, -1}}));
  if (axis == rank)
    return b.out(b.call("reshape", {x, std::vector<int64_t>{-1, 1}}));
  if (rank - axis > 1)
    x = b.call("flatten", {x, axis, -1});
  if (axis > 1)
    x = b.call("flatten", {x, 0, axis - 1});
  b.out(x);
}

/// Two dimensions that change places are aten::transpose, as people write it.
void transpose(Lowering& b) {
  int64_t rank = b.rank(0);
  auto order = b.intsAttribute("perm");
  if (order.empty()) {
    order.resize(size_t(rank));
    std::iota(order.rbegin(), order.rend(), 0);
  }
  std::vector<int64_t> moved;
  for (int64_t d = 0; d < int64_t(order.size()); ++d)
    if (order[size_t(d)] != d)
      moved.push_back(d);
  if (moved.empty())
    return identity(b);
  if (moved.size() == 2)
    return b.out(b.call("transpose", {b.in(0), moved[0], moved[1]}));
  b.out(b.call("permute", {b.in(0), order}));
}

void squeeze(Lowering& b) {
  auto axes = axesOf(b, 1);
  if (!axes) {
    const auto& sizes = b.shape(0);
    axes.emplace();
    for (int64_t d = 0; d < int64_t(sizes.size()); ++d) {
      if (sizes[size_t(d)] < 0)
        b.refuse("does not say which dimensions, and one is of open size");
      if (sizes[size_t(d)] == 1)
        axes->push_back(d);
    }
  }
  auto dims = b.axes(*axes, b.rank(0));
  std::sort(dims.rbegin(), dims.rend());
  Value* x = b.in(0);
  for (int64_t d : dims)
    x = b.call("squeeze", {x, d});
  b.out(x);
}

void unsqueeze(Lowering& b) {
  auto axes = axesOf(b, 1);
  if (!axes)
    b.refuse("has no axes");
  auto dims = b.axes(*axes, b.rank(0) + int64_t(axes->size()));
  std::sort(dims.begin(), dims.end());
  Value* x = b.in(0);
  for (int64_t d : dims)
    x = b.call("unsqueeze", {x, d});
  b.out(x);
}

void concat(Lowering& b) {
  std::vector<Value*> parts;
  int64_t axis = b.intAttribute("axis", 0);
  for (size_t i = 0; i < b.inputs(); ++i) {
    parts.push_back(b.in(i));
    if (b.knownRank(i))
      axis = b.axis(axis, b.rank(i));
  }
  b.out(b.call("cat", {b.list(parts), axis}));
}

/// Equal parts are aten::chunk: the same sizes, and the analysis knows it.
void split(Lowering& b) {
  size_t count = b.outputs.size();
  int64_t axis = b.axis(b.intAttribute("axis", 0), b.rank(0));
  Value* parts = nullptr;
  bool sizes = b.has(1) || b.hasAttribute("split");
  if (sizes) {
    auto each = b.has(1) ? b.numbers(1) : Numbers();
    if (!b.has(1))
      for (int64_t n : b.intsAttribute("split"))
        each.emplace_back(n);
    if (each.size() != count)
      b.refuse("has more results than sizes, or fewer");
    bool equal = std::all_of(each.begin(), each.end(), [&](const Number& n) {
      return n.known && *n.known > 0 && n.known == each[0].known;
    });
    parts = equal
                ? b.call("chunk", {b.in(0), int64_t(count), axis})
                : b.call("split_with_sizes", {b.in(0), sizesOf(b, each), axis});
  } else {
    parts = b.call("chunk", {b.in(0), int64_t(count), axis});
  }
  auto values = b.unpack(parts, count);
  for (size_t i = 0; i < count; ++i)
    b.out(values[i], i);
}

namespace {

/// One dimension of a slice with a step below zero: the mirrored one, forwards.
Value* sliceBack(Lowering& b, Value* x, int64_t dim, const Number& n,
                 int64_t start, int64_t end, int64_t step) {
  x = b.call("flip", {x, std::vector<int64_t>{dim}});
  // Place k is n - 1 - k from the other end; those before the start, counted
  // from the end, are at -1 - k.
  Number first = start < 0 ? Number(-1 - start) : b.sub(b.sub(n, 1), start);
  first = b.max(first, 0);
  Number last = kOpenEnd;
  if (end >= 0)
    last = b.max(b.sub(b.sub(n, 1), end), 0);
  else if (end >= -std::numeric_limits<int32_t>::max())
    last = -1 - end;
  if (first.known == 0 && last.known == kOpenEnd && step == -1)
    return x;
  return b.call("slice", {x, dim, b.value(first), b.value(last), -step});
}

} // namespace

void slice(Lowering& b) {
  Numbers starts = b.numbers(1), ends = b.numbers(2);
  std::vector<int64_t> dims, steps;
  if (b.has(3)) {
    dims = b.constants(3, "axes");
  } else {
    dims.resize(starts.size());
    std::iota(dims.begin(), dims.end(), 0);
  }
  if (b.has(4))
    steps = b.constants(4, "steps");
  steps.resize(dims.size(), 1);
  if (starts.size() != dims.size() || ends.size() != dims.size())
    b.refuse("has starts and ends of other axes");
  Value* x = b.in(0);
  for (size_t i = 0; i < dims.size(); ++i) {
    int64_t dim = b.axis(dims[i], b.rank(0));
    if (steps[i] == 0)
      b.refuse("has a step of zero");
    if (steps[i] < 0) {
      if (!starts[i].known || !ends[i].known)
        b.refuse("goes backwards between places that only the run can tell");
      x = sliceBack(b, x, dim, b.size(0, dim), *starts[i].known, *ends[i].known,
                    steps[i]);
      continue;
    }
    // Beyond all sizes is "until the end", in 32 bits, too.
    Number end = ends[i];
    if (end.known && *end.known >= std::numeric_limits<int32_t>::max())
      end = kOpenEnd;
    x = b.call("slice", {x, dim, b.value(starts[i]), b.value(end), steps[i]});
  }
  b.out(x);
}

/// ONNX's Expand also keeps a dimension where the shape says 1.
void expand(Lowering& b) {
  Numbers to = b.numbers(1);
  const auto from = b.shape(0);
  int64_t extra = int64_t(to.size()) - int64_t(from.size());
  Numbers sizes(extra < 0 ? size_t(-extra) : 0, Number(-1));
  for (int64_t d = 0; d < int64_t(to.size()); ++d) {
    const Number& n = to[size_t(d)];
    int64_t own = d < extra ? 1 : from[size_t(d - extra)];
    if (d < extra || own == 1)
      sizes.push_back(n);
    else if (own > 1 || n.known == 1)
      sizes.emplace_back(-1);
    else if (n.known)
      sizes.push_back(n); // an open size that is 1, or this
    else
      sizes.push_back(b.max(b.size(0, d - extra), n));
  }
  b.out(b.call("expand", {b.in(0), sizesOf(b, sizes)}));
}

void tile(Lowering& b) {
  b.out(b.call("repeat", {b.in(0), sizesOf(b, b.numbers(1))}));
}

namespace {

/// Each element from the other end of a mirror, or its nearest: by index, in
/// any number of dimensions.
Value* padByIndex(Lowering& b, Value* x, int64_t dim, const Number& before,
                  const Number& after, const std::string& mode) {
  Number n = b.sizeOf(x, dim);
  Number total = b.add(b.add(n, before), after);
  Value* at = b.call("sub", {arange(b, total, at::kLong, x), b.value(before)});
  if (mode == "edge") {
    at = b.call("clamp", {at, 0, b.value(b.sub(n, 1))});
  } else if (mode == "wrap") {
    at = b.call("remainder", {at, b.value(n)});
  } else { // reflect: of period 2 (n - 1)
    Number period = b.max(b.mul(b.sub(n, 1), 2), 1);
    at = b.call("remainder", {at, b.value(period)});
    Value* back = b.call("rsub", {at, b.value(period)});
    at = b.call("minimum", {at, back});
  }
  return b.call("index_select", {x, dim, at});
}

} // namespace

void pad(Lowering& b) {
  Numbers pads = b.numbers(1);
  int64_t rank = b.rank(0);
  std::vector<int64_t> dims(static_cast<size_t>(rank));
  std::iota(dims.begin(), dims.end(), 0);
  if (b.has(3))
    dims = b.axes(b.constants(3, "axes"), rank);
  if (pads.size() != 2 * dims.size())
    b.refuse("has not two numbers for each axis");
  Numbers before(size_t(rank), 0), after(size_t(rank), 0);
  for (size_t i = 0; i < dims.size(); ++i) {
    before[size_t(dims[i])] = pads[i];
    after[size_t(dims[i])] = pads[dims.size() + i];
  }
  std::string mode = b.stringAttribute("mode", "constant");
  Value* x = b.in(0);
  if (mode != "constant") {
    for (int64_t d = 0; d < rank; ++d)
      if (before[size_t(d)].known != 0 || after[size_t(d)].known != 0)
        x = padByIndex(b, x, d, before[size_t(d)], after[size_t(d)], mode);
    return b.out(x);
  }
  c10::IValue value(0);
  if (b.has(2)) {
    const at::Tensor* known = b.constant(2);
    if (known == nullptr || known->numel() != 1)
      b.refuse("has a value that only the run can tell");
    at::Scalar number = known->item();
    value = number.isFloatingPoint() ? c10::IValue(number.toDouble())
                                     : c10::IValue(number.toLong());
  }
  // From the last dimension on, and no further than needed.
  int64_t first = rank;
  for (int64_t d = 0; d < rank; ++d)
    if (before[size_t(d)].known != 0 || after[size_t(d)].known != 0)
      first = std::min(first, d);
  if (first == rank)
    return identity(b);
  Numbers all;
  for (int64_t d = rank - 1; d >= first; --d) {
    all.push_back(before[size_t(d)]);
    all.push_back(after[size_t(d)]);
  }
  b.out(b.call("constant_pad_nd", {x, sizesOf(b, all), value}));
}

void depthToSpace(Lowering& b) {
  int64_t block = b.intAttribute("blocksize", 1);
  if (b.stringAttribute("mode", "DCR") == "CRD")
    return b.out(b.call("pixel_shuffle", {b.in(0), block}));
  if (b.rank(0) != 4 || block < 1)
    b.refuse("is done on four dimensions");
  Number n = b.size(0, 0), c = b.size(0, 1), h = b.size(0, 2), w = b.size(0, 3);
  Number depth = b.floorDivide(c, block * block);
  Value* x =
      b.call("reshape", {b.in(0), sizesOf(b, {n, block, block, depth, h, w})});
  x = b.call("permute", {x, std::vector<int64_t>{0, 3, 4, 1, 5, 2}});
  b.out(b.call("reshape",
               {x, sizesOf(b, {n, depth, b.mul(h, block), b.mul(w, block)})}));
}

void spaceToDepth(Lowering& b) {
  int64_t block = b.intAttribute("blocksize", 1);
  if (b.rank(0) != 4 || block < 1)
    b.refuse("is done on four dimensions");
  Number n = b.size(0, 0), c = b.size(0, 1);
  Number h = b.floorDivide(b.size(0, 2), block);
  Number w = b.floorDivide(b.size(0, 3), block);
  Value* x =
      b.call("reshape", {b.in(0), sizesOf(b, {n, c, h, block, w, block})});
  bool crd = b.stringAttribute("mode", "DCR") == "CRD";
  std::vector<int64_t> order = crd ? std::vector<int64_t>{0, 1, 3, 5, 2, 4}
                                   : std::vector<int64_t>{0, 3, 5, 1, 2, 4};
  x = b.call("permute", {x, order});
  b.out(b.call("reshape", {x, sizesOf(b, {n, b.mul(c, block * block), h, w})}));
}

void triangle(Lowering& b) {
  int64_t k = b.has(1) ? b.constants(1, "a diagonal").at(0) : 0;
  bool upper = b.intAttribute("upper", 1) != 0;
  b.out(b.call(upper ? "triu" : "tril", {b.in(0), k}));
}

/// The middle of each axis, or zeros around it.
void centerCropPad(Lowering& b) {
  int64_t rank = b.rank(0);
  Numbers to = b.numbers(1);
  std::vector<int64_t> dims(static_cast<size_t>(rank));
  std::iota(dims.begin(), dims.end(), 0);
  if (b.hasAttribute("axes"))
    dims = b.axes(b.intsAttribute("axes"), rank);
  if (dims.size() != to.size())
    b.refuse("has not one size for each axis");
  Value* x = b.in(0);
  for (size_t i = 0; i < dims.size(); ++i) {
    Number n = b.size(0, dims[i]);
    if (!n.known || !to[i].known)
      b.refuse("has sizes that only the run can tell");
    int64_t more = *to[i].known - *n.known;
    int64_t before = more >= 0 ? more / 2 : -((-more) / 2);
    x = padAxis(b, x, rank, dims[i], before, more - before, 0);
  }
  b.out(x);
}

/// The first `lengths[i]` elements of each sequence, the other way round.
void reverseSequence(Lowering& b) {
  int64_t rank = b.rank(0);
  int64_t time = b.intAttribute("time_axis", 0);
  int64_t batch = b.intAttribute("batch_axis", 1);
  if (time < 0 || time > 1 || batch != 1 - time)
    b.refuse("has a time_axis that is neither the first nor the second");
  Value* x = b.in(0);
  Value* at = along(b, arange(b, b.size(0, time), at::kLong, x), 2, time);
  Value* lengths = along(b, b.cast(b.in(1), at::kLong), 2, batch);
  Value* back = b.call("sub", {b.call("sub", {lengths, at}), 1});
  Value* place = b.call("where", {b.call("lt", {at, lengths}), back, at});
  Numbers shape{b.size(0, 0), b.size(0, 1)}, all = shape;
  for (int64_t d = 2; d < rank; ++d) {
    shape.emplace_back(1);
    all.push_back(b.size(0, d));
  }
  place = b.call("reshape", {place, sizesOf(b, shape)});
  place = b.call("expand", {place, sizesOf(b, all)});
  b.out(b.call("gather", {x, time, place}));
}

} // namespace inv::opt::lower
