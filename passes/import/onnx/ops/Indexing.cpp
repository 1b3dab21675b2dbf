// Operators that pick elements, or put some in place of others.
//
// ONNX counts a negative index from the end. aten::index does so too; where
// ATen's operator does not, the index is brought into range first.
#include "passes/import/onnx/ops/Support.h"

#include <string>

namespace inv::opt::lower {

namespace {

Value* indices(Lowering& b, size_t i) {
  return b.dtype(i) == at::kLong ? b.in(i) : b.cast(b.in(i), at::kLong);
}

/// Operand `i` as indices that are not negative, into `n` elements.
Value* fromFront(Lowering& b, size_t i, const Number& n) {
  const at::Tensor* known = b.constant(i);
  Value* at = indices(b, i);
  if (known != nullptr && known->numel() > 0 &&
      known->min().item().toLong() >= 0)
    return at;
  return b.call("remainder", {at, b.value(n)});
}

/// The list that aten::index takes: nothing for the first `skip` dimensions.
Value* indexList(Lowering& b, int64_t skip, const std::vector<Value*>& at) {
  std::vector<Value*> all;
  for (int64_t d = 0; d < skip; ++d)
    all.push_back(b.graph().insertConstant(none()));
  all.insert(all.end(), at.begin(), at.end());
  auto element = c10::OptionalType::create(c10::TensorType::get());
  return b.graph().insertNode(b.graph().createList(element, all))->output();
}

/// The columns of indices [..., k], each an index into one dimension.
std::vector<Value*> columns(Lowering& b, size_t i) {
  const auto& shape = b.shape(i);
  if (shape.empty() || shape.back() < 0)
    b.refuse("has indices of open depth");
  std::vector<Value*> all;
  for (int64_t k = 0; k < shape.back(); ++k)
    all.push_back(b.call("select", {indices(b, i), -1, k}));
  return all;
}

/// ATen's name of a reduction, for operators that keep the old value.
const char* reduction(Lowering& b, const std::string& how) {
  if (how == "mul")
    return "prod";
  if (how == "max")
    return "amax";
  if (how == "min")
    return "amin";
  b.refuse("has the unknown reduction '" + how + "'");
}

} // namespace

void gather(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", 0), b.rank(0));
  if (b.rank(1) == 0 && b.operand(1).numbers)
    return b.out(
        b.call("select", {b.in(0), axis, b.value(b.numbers(1).at(0))}));
  b.out(b.call("index", {b.in(0), indexList(b, axis, {indices(b, 1)})}));
}

void gatherElements(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", 0), b.rank(0));
  Value* at = fromFront(b, 1, b.size(0, axis));
  b.out(b.call("gather", {b.in(0), axis, at}));
}

void gatherNd(Lowering& b) {
  int64_t batch = b.intAttribute("batch_dims", 0);
  int64_t rank = b.rank(1) - 1;
  std::vector<Value*> at;
  for (int64_t d = 0; d < batch; ++d)
    at.push_back(
        along(b, arange(b, b.size(0, d), at::kLong, b.in(0)), rank, d));
  for (Value* column : columns(b, 1))
    at.push_back(column);
  b.out(b.call("index", {b.in(0), indexList(b, 0, at)}));
}

void scatterElements(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", 0), b.rank(0));
  Value* at = fromFront(b, 1, b.size(0, axis));
  std::string how = b.stringAttribute("reduction", "none");
  Arguments arguments{b.in(0), axis, at, b.in(2)};
  if (how == "none")
    return b.out(b.call("scatter", arguments));
  if (how == "add")
    return b.out(b.call("scatter_add", arguments));
  arguments.insert(arguments.end(), {reduction(b, how)});
  b.out(
      b.call("scatter_reduce", arguments, {NamedValue("include_self", true)}));
}

void scatterNd(Lowering& b) {
  auto at = columns(b, 1);
  std::string how = b.stringAttribute("reduction", "none");
  if (how == "none" || how == "add")
    return b.out(b.call("index_put",
                        {b.in(0), indexList(b, 0, at), b.in(2), how == "add"}));
  // The first dimensions as one, the others as one.
  const char* reduce = reduction(b, how);
  int64_t k = int64_t(at.size()), rank = b.rank(0);
  Value* place = nullptr;
  Numbers sizes;
  for (int64_t d = 0; d < rank; ++d)
    sizes.push_back(b.size(0, d));
  for (int64_t d = 0; d < k; ++d) {
    Value* own =
        b.call("remainder", {at[size_t(d)], b.value(sizes[size_t(d)])});
    place =
        place == nullptr
            ? own
            : b.call("add",
                     {b.call("mul", {place, b.value(sizes[size_t(d)])}), own});
  }
  Number rest = b.product({sizes.begin() + k, sizes.end()});
  auto pair = [&](const Number& first) { return b.list(Numbers{first, rest}); };
  Value* x = b.call("reshape", {b.in(0), pair(-1)});
  Value* updates = b.call("reshape", {b.in(2), pair(-1)});
  place = b.call("reshape", {place, std::vector<int64_t>{-1}});
  Value* y = b.call("index_reduce", {x, 0, place, updates, reduce},
                    {NamedValue("include_self", true)});
  b.out(b.call("reshape", {y, b.list(sizes)}));
}

void nonZero(Lowering& b) {
  b.out(b.call("t", {b.call("nonzero", {b.in(0)})}));
}

void oneHot(Lowering& b) {
  auto known = b.constantScalar(1);
  Number depth = known ? Number(int64_t(*known)) : b.numbers(1).at(0);
  int64_t rank = b.rank(0) + 1;
  int64_t axis = b.axis(b.intAttribute("axis", -1), rank);
  Value* at = indices(b, 0);
  Value* back = b.call("add", {at, b.value(depth)});
  at = b.call("where", {b.call("lt", {at, 0}), back, at});
  Value* places = along(b, arange(b, depth, at::kLong, at), rank, axis);
  Value* hot = b.call("eq", {b.call("unsqueeze", {at, axis}), places});
  b.out(b.call("where", {hot, b.call("select", {b.in(2), 0, 1}),
                         b.call("select", {b.in(2), 0, 0})}));
}

/// Of equal elements the first: aten::topk takes any.
void topK(Lowering& b) {
  int64_t axis = b.axis(b.intAttribute("axis", -1), b.rank(0));
  bool largest = b.intAttribute("largest", 1) != 0;
  Number k = b.numbers(1).at(0);
  auto sorted =
      b.unpack(b.call("sort", {b.in(0)},
                      {NamedValue("stable", true), NamedValue("dim", axis),
                       NamedValue("descending", largest)}),
               2);
  b.out(sliceAxis(b, sorted[0], axis, 0, k));
  if (b.wants(1))
    b.out(sliceAxis(b, sorted[1], axis, 0, k), 1);
}

/// Values in order, or (sorted=0) in the order in which they come first.
void unique(Lowering& b) {
  bool whole = !b.hasAttribute("axis");
  int64_t axis = whole ? 0 : b.axis(b.intAttribute("axis", 0), b.rank(0));
  Value* x = b.in(0);
  Value* results = whole ? b.call("_unique2", {x, true, true, true})
                         : b.call("unique_dim", {x, axis, true, true, true});
  auto r = b.unpack(results, 3);
  Value *values = r[0], *inverse = b.call("flatten", {r[1]}), *counts = r[2];
  Number found = b.sizeOf(counts, 0), all = b.sizeOf(inverse, 0);
  Value* place = arange(b, all, at::kLong, x);
  Value* first =
      b.call("scatter_reduce",
             {arange(b, found, at::kLong, x), 0, inverse, place, "amin"},
             {NamedValue("include_self", false)});
  if (b.intAttribute("sorted", 1) == 0) {
    Value* order = b.call("argsort", {first});
    values = b.call("index_select", {values, axis, order});
    counts = b.call("index_select", {counts, 0, order});
    first = b.call("index_select", {first, 0, order});
    inverse = b.call("index_select", {b.call("argsort", {order}), 0, inverse});
  }
  Value* rest[] = {first, inverse, counts};
  b.out(values);
  for (size_t i = 1; i < b.outputs.size(); ++i)
    b.out(rest[i - 1], i);
}

void compress(Lowering& b) {
  Value* x = b.in(0);
  int64_t axis = 0;
  if (b.hasAttribute("axis"))
    axis = b.axis(b.intAttribute("axis", 0), b.rank(0));
  else
    x = b.call("reshape", {x, std::vector<int64_t>{-1}});
  Value* at = b.call("reshape",
                     {b.call("nonzero", {b.in(1)}), std::vector<int64_t>{-1}});
  b.out(b.call("index_select", {x, axis, at}));
}

} // namespace inv::opt::lower
