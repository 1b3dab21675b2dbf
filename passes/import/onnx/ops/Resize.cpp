// Resampling of images.
//
// What PyTorch's interpolate exports becomes that operator again. ONNX defines
// more (coordinates, rounding, weights); all of it is separable, so the rest is
// done axis by axis: each output reads one, two or four elements, at places and
// with weights that follow from its coordinate.
#include "passes/import/onnx/ops/Support.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace inv::opt::lower {

namespace {

/// One resized axis.
struct Axis {
  int64_t dim = 0;
  Number in = 0, out = 0;
  std::optional<double> scale; ///< known now
  double roiStart = 0, roiEnd = 1;
};

struct How {
  std::string mode, coordinates, rounding;
  double a = -0.75, outside = 0;
  bool exclude = false;
};

std::vector<double> floats(Lowering& b, size_t i, const char* what) {
  const at::Tensor* t = b.constant(i);
  if (t == nullptr)
    b.refuse(fmt::format("has {} that only the run can tell", what));
  at::Tensor d = t->to(at::kDouble).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

bool given(Lowering& b, size_t i) {
  return b.has(i) && !(b.constant(i) && b.constant(i)->numel() == 0);
}

/// floor(n * scale)
Number scaled(Lowering& b, const Number& n, double scale) {
  if (n.known)
    return Number(int64_t(std::floor(double(*n.known) * scale)));
  Value* product = b.call("mul", {b.value(n), scale});
  return Number(b.call("floor", {product}), true);
}

std::vector<Axis> axesOf(Lowering& b) {
  int64_t rank = b.rank(0);
  std::vector<int64_t> dims;
  if (b.hasAttribute("axes"))
    dims = b.axes(b.intsAttribute("axes"), rank);
  else
    for (int64_t d = 0; d < rank; ++d)
      dims.push_back(d);
  std::vector<double> roi, scales;
  if (given(b, 1))
    roi = floats(b, 1, "a roi");
  Numbers sizes;
  if (given(b, 2))
    scales = floats(b, 2, "scales");
  else
    sizes = b.numbers(3);
  if (std::max(scales.size(), sizes.size()) != dims.size() ||
      (!roi.empty() && roi.size() != 2 * dims.size()))
    b.refuse("has not one scale or size for each axis");
  std::vector<Axis> all;
  for (size_t i = 0; i < dims.size(); ++i) {
    Axis axis;
    axis.dim = dims[i];
    axis.in = b.size(0, axis.dim);
    if (!scales.empty()) {
      axis.scale = scales[i];
      axis.out = scaled(b, axis.in, scales[i]);
    } else {
      axis.out = sizes[i];
      if (axis.in.known && axis.out.known)
        axis.scale = double(*axis.out.known) / double(*axis.in.known);
    }
    if (!roi.empty()) {
      axis.roiStart = roi[i];
      axis.roiEnd = roi[dims.size() + i];
    }
    bool same = axis.scale == 1.0 ||
                (!axis.in.known && axis.in.value == axis.out.value);
    if (!same || b.stringAttribute("coordinate_transformation_mode", "") ==
                     "tf_crop_and_resize")
      all.push_back(axis);
  }
  return all;
}

/// Whether the axis may come out with one element, of which
/// pytorch_half_pixel says another place than PyTorch does today.
bool mayBeOne(Lowering& b, const Axis& axis) {
  if (axis.out.known)
    return *axis.out.known == 1;
  return !given(b, 2) || *axis.scale < 2;
}

/// As PyTorch's own operator, where it is one; null where not.
Value* asInterpolate(Lowering& b, const How& how,
                     const std::vector<Axis>& axes) {
  int64_t rank = b.rank(0);
  size_t n = size_t(std::max<int64_t>(rank - 2, 0));
  if (n < 1 || n > 3)
    return nullptr;
  bool corners = how.coordinates == "align_corners";
  bool pixels = how.coordinates == "half_pixel" ||
                how.coordinates == "pytorch_half_pixel";
  for (const auto& axis : axes)
    if (axis.dim < 2 ||
        (how.coordinates == "pytorch_half_pixel" && mayBeOne(b, axis)))
      return nullptr;
  std::string op;
  Arguments arguments{b.in(0)};
  if (how.mode == "nearest" && how.coordinates == "asymmetric" &&
      how.rounding == "floor")
    op = fmt::format("upsample_nearest{}d", n);
  else if (how.mode == "linear" && (corners || pixels) && !how.exclude)
    op = n == 1 ? "upsample_linear1d"
                : (n == 2 ? "upsample_bilinear2d" : "upsample_trilinear3d");
  else if (how.mode == "cubic" && (corners || pixels) && !how.exclude &&
           how.a == -0.75 && n == 2)
    op = "upsample_bicubic2d";
  else
    return nullptr;
  Numbers sizes;
  std::vector<double> scales(n, 1.0);
  bool byScale = given(b, 2);
  for (int64_t d = 2; d < rank; ++d)
    sizes.push_back(b.size(0, d));
  for (const auto& axis : axes) {
    sizes[size_t(axis.dim - 2)] = axis.out;
    scales[size_t(axis.dim - 2)] = axis.scale.value_or(1);
  }
  if (byScale)
    arguments.insert(arguments.end(), {none()});
  else
    arguments.emplace_back(b.list(sizes));
  if (how.mode != "nearest")
    arguments.insert(arguments.end(), {corners});
  if (byScale)
    arguments.insert(arguments.end(), {scales});
  return b.call(op.c_str(), arguments);
}

/// A float of the graph, or a known one.
NamedValue asFloat(Lowering& b, const Number& n) {
  if (n.known)
    return c10::IValue(double(*n.known));
  return b.call("Float", {b.value(n)});
}

/// in / out of an axis, as the step between two outputs' coordinates.
NamedValue stepOf(Lowering& b, const Axis& axis) {
  if (axis.scale)
    return c10::IValue(1 / *axis.scale);
  return b.call("div", {asFloat(b, axis.in), asFloat(b, axis.out)});
}

/// Where in the input each output lies.
Value* coordinatesOf(Lowering& b, const How& how, const Axis& axis) {
  Value* o = arange(b, axis.out, at::kDouble, b.in(0));
  const std::string& c = how.coordinates;
  bool one = axis.out.known == 1;
  if (c == "asymmetric")
    return b.call("mul", {o, stepOf(b, axis)});
  if (c == "align_corners") {
    if (one)
      return b.call("mul", {o, 0.0});
    Number intervals = b.max(b.sub(axis.out, 1), 1);
    return b.call("div", {b.call("mul", {o, b.value(b.sub(axis.in, 1))}),
                          b.value(intervals)});
  }
  if (c == "tf_crop_and_resize") {
    if (!axis.in.known || !axis.out.known)
      b.refuse("crops an axis of open size");
    double last = double(*axis.in.known - 1);
    double step = one ? 0.0
                      : (axis.roiEnd - axis.roiStart) * last /
                            double(*axis.out.known - 1);
    double start =
        one ? 0.5 * (axis.roiStart + axis.roiEnd) * last : axis.roiStart * last;
    return b.call("add", {b.call("mul", {o, step}), start});
  }
  if (c == "pytorch_half_pixel" && one)
    return b.call("mul", {o, 0.0});
  if (c != "half_pixel" && c != "pytorch_half_pixel" &&
      c != "half_pixel_symmetric")
    b.refuse("has the unknown coordinates '" + c + "'");
  Value* x = b.call("mul", {b.call("add", {o, 0.5}), stepOf(b, axis)});
  x = b.call("sub", {x, 0.5});
  if (c == "pytorch_half_pixel" && !axis.out.known) // zero, where it is one
    x = b.call("mul", {x, b.value(b.min(b.sub(axis.out, 1), 1))});
  if (c == "half_pixel_symmetric") {
    if (!axis.in.known || !axis.scale)
      b.refuse("is symmetric about the middle of an open size");
    double exact = *axis.scale * double(*axis.in.known);
    double share = double(*axis.out.known) / exact;
    x = b.call("add", {x, double(*axis.in.known) / 2 * (1 - share)});
  }
  return x;
}

Value* taken(Lowering& b, Value* x, const Axis& axis, Value* at) {
  Value* last = b.value(b.sub(axis.in, 1));
  at = b.cast(b.call("clamp", {at, 0, last}), at::kLong);
  return b.call("index_select", {x, axis.dim, at});
}

Value* nearestPlace(Lowering& b, const std::string& rounding, Value* x) {
  if (rounding == "round_prefer_floor")
    return b.call("ceil", {b.call("sub", {x, 0.5})});
  if (rounding == "round_prefer_ceil")
    return b.call("floor", {b.call("add", {x, 0.5})});
  return b.call(rounding == "ceil" ? "ceil" : "floor", {x});
}

/// Keys' kernel at distance `d` (a tensor that is not negative).
Value* keys(Lowering& b, Value* d, double a) {
  auto polynomial = [&](std::initializer_list<double> factors) {
    Value* y = nullptr;
    for (double f : factors)
      y = y == nullptr ? b.call("add", {b.call("mul", {d, 0.0}), f})
                       : b.call("add", {b.call("mul", {y, d}), f});
    return y;
  };
  Value* near = polynomial({a + 2, -(a + 3), 0, 1});
  Value* far = polynomial({a, -5 * a, 8 * a, -4 * a});
  Value* none = b.call("mul", {d, 0.0});
  Value* y = b.call("where", {b.call("lt", {d, 2}), far, none});
  return b.call("where", {b.call("le", {d, 1}), near, y});
}

/// A weighted sum of two or four elements.
Value* interpolated(Lowering& b, const How& how, Value* x, const Axis& axis,
                    Value* at) {
  bool linear = how.mode == "linear";
  Value* floor = b.call("floor", {at});
  std::vector<Value*> places, weights;
  for (int64_t k = linear ? 0 : -1; k <= (linear ? 1 : 2); ++k) {
    Value* place = b.call("add", {floor, k});
    Value* distance = b.call("abs", {b.call("sub", {at, place})});
    Value* weight =
        linear ? b.call("rsub", {distance, 1}) : keys(b, distance, how.a);
    if (how.exclude) {
      Value* inside =
          b.call("logical_and", {b.call("ge", {place, 0}),
                                 b.call("lt", {place, b.value(axis.in)})});
      weight = b.call("mul", {weight, inside});
    }
    places.push_back(place);
    weights.push_back(weight);
  }
  if (how.exclude) {
    Value* total = weights[0];
    for (size_t i = 1; i < weights.size(); ++i)
      total = b.call("add", {total, weights[i]});
    for (auto& weight : weights)
      weight = b.call("div", {weight, total});
  }
  Value* y = nullptr;
  for (size_t i = 0; i < places.size(); ++i) {
    Value* weight =
        along(b, b.cast(weights[i], b.dtype(0)), b.rank(0), axis.dim);
    Value* term = b.call("mul", {taken(b, x, axis, places[i]), weight});
    y = y == nullptr ? term : b.call("add", {y, term});
  }
  return y;
}

Value* resizeAxis(Lowering& b, const How& how, Value* x, const Axis& axis) {
  Value* at = coordinatesOf(b, how, axis);
  Value* y = how.mode == "nearest"
                 ? taken(b, x, axis, nearestPlace(b, how.rounding, at))
                 : interpolated(b, how, x, axis, at);
  if (how.coordinates != "tf_crop_and_resize")
    return y;
  Value* beyond =
      b.call("logical_or", {b.call("lt", {at, 0}),
                            b.call("gt", {at, b.value(b.sub(axis.in, 1))})});
  return b.call("masked_fill",
                {y, along(b, beyond, b.rank(0), axis.dim), how.outside});
}

} // namespace

void resize(Lowering& b) {
  How how;
  how.mode = b.stringAttribute("mode", "nearest");
  how.coordinates =
      b.stringAttribute("coordinate_transformation_mode", "half_pixel");
  how.rounding = b.stringAttribute("nearest_mode", "round_prefer_floor");
  how.a = b.floatAttribute("cubic_coeff_a", -0.75);
  how.outside = b.floatAttribute("extrapolation_value", 0);
  how.exclude = b.intAttribute("exclude_outside", 0) != 0;
  if (b.intAttribute("antialias", 0) != 0)
    b.refuse("smooths before it makes smaller (antialias)");
  if (b.stringAttribute("keep_aspect_ratio_policy", "stretch") != "stretch")
    b.refuse("keeps the ratio of sizes (keep_aspect_ratio_policy)");
  auto axes = axesOf(b);
  if (axes.empty())
    return identity(b);
  if (Value* y = asInterpolate(b, how, axes))
    return b.out(y);
  bool floats = b.isFloat(0);
  if (!floats && how.mode != "nearest")
    b.refuse("interpolates integers");
  Value* x = b.in(0);
  for (const auto& axis : axes)
    x = resizeAxis(b, how, x, axis);
  b.out(x);
}

void gridSample(Lowering& b) {
  std::string mode = b.stringAttribute("mode", "linear");
  std::string padding = b.stringAttribute("padding_mode", "zeros");
  int64_t how = mode.find("near") == 0 ? 1 : (mode.find("cubic") + 1 ? 2 : 0);
  int64_t outside = padding == "border" ? 1 : (padding == "reflection" ? 2 : 0);
  if (b.rank(0) != 4 && (b.rank(0) != 5 || how == 2))
    b.refuse("is done on images of two dimensions, or three where linear");
  b.out(b.call("grid_sampler", {b.in(0), b.in(1), how, outside,
                                b.intAttribute("align_corners", 0) != 0}));
}

void affineGrid(Lowering& b) {
  b.out(b.call("affine_grid_generator",
               {b.in(0), b.list(b.numbers(1)),
                b.intAttribute("align_corners", 0) != 0}));
}

} // namespace inv::opt::lower
