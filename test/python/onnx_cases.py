"""The table of tests of ONNX operators: for each row of Operators.def at least
one, which makes models of one node with random attributes, shapes and values.

    ROWS["Gemm"] = [make, ...]     make(draw) -> Node

Operands in `const` are initializers of integers or settings, which the importer
must know; all others are inputs of the model. Gradients are taken for every
floating-point input, unless `smooth` is False.
"""

import dataclasses

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass
class Node:
    inputs: dict  # name to array; None: left out
    attributes: dict = dataclasses.field(default_factory=dict)
    const: dict = dataclasses.field(default_factory=dict)
    outputs: int = 1
    smooth: bool = True  # has a gradient that finite differences can see
    opset: int = 0  # 0: the newest that the reference knows
    order: list = None  # names of all operands, where constants come between
    skip: list = ()  # outputs that are left out
    frozen: list = ()  # of `const`: what Constant nodes make
    check: object = None  # instead of a reference: check(outputs, feeds)
    double: bool = True  # is done in float64, too
    fixed: list = ()  # inputs that PyTorch has no gradient of
    tolerance: float = 1e-4


class Draw:
    """Random shapes, numbers and choices."""

    def __init__(self, seed, dtype=np.float32):
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype

    def shape(self, rank, low=2, high=5):
        return tuple(int(n) for n in self.rng.integers(low, high, rank))

    def rank(self, low=1, high=5):
        return int(self.rng.integers(low, high))

    def f(self, *shape, low=-2.0, high=2.0, gap=0.0):
        """Uniform in [low, high), at least `gap` from 0."""
        x = self.rng.uniform(low, high, shape)
        x = np.where(np.abs(x) < gap, x + np.where(x < 0, -gap, gap), x)
        return x.astype(self.dtype)

    def far(self, *shape, step=0.25):
        """All different, so that no comparison of two is close."""
        n = int(np.prod(shape, dtype=int))
        x = (self.rng.permutation(n) - n / 2 + 0.37) * step
        return x.reshape(shape).astype(self.dtype)

    def i(self, *shape, low=-5, high=5, dtype=np.int64):
        return self.rng.integers(low, high, shape).astype(dtype)

    def b(self, *shape):
        return self.rng.integers(0, 2, shape).astype(bool)

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def broadcast(self, shape):
        """A shape that spreads to `shape`."""
        cut = int(self.rng.integers(0, len(shape) + 1))
        return tuple(1 if self.rng.random() < 0.3 else n for n in shape[cut:])


ROWS = {}


def row(*names):
    """Adds a maker to the rows of these operators."""
    def add(make):
        for name in names:
            ROWS.setdefault(name, []).append(
                (lambda d, name=name: make(d, name))
                if make.__code__.co_argcount == 2 else make)
        return make
    return add


def ints(*values):
    return np.array(values, dtype=np.int64)


def model_of(op, node, opset=None):
    """The ONNX model of one node."""
    names = node.order or [*node.inputs, *node.const]
    given = {**node.inputs, **node.const}
    operands = [name if given[name] is not None else "" for name in names]
    outputs = ["" if i in node.skip else f"out{i}" for i in range(node.outputs)]
    made = helper.make_node(op, operands, outputs, name=f"the_{op}",
                            **node.attributes)
    inputs = [helper.make_tensor_value_info(
                  name, helper.np_dtype_to_tensor_dtype(value.dtype),
                  value.shape)
              for name, value in node.inputs.items() if value is not None]
    initializers = [numpy_helper.from_array(np.asarray(value), name)
                    for name, value in node.const.items()
                    if value is not None and name not in node.frozen]
    constants = [helper.make_node("Constant", [], [name],
                                  value=numpy_helper.from_array(
                                      np.asarray(node.const[name])))
                 for name in node.frozen]
    graph = helper.make_graph(
        [*constants, made], f"test_{op}", inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs if name],
        initializers)
    opset = opset or node.opset or 23
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)],
                              ir_version=10)
    return with_types(model)


def with_types(model):
    """Types of the outputs, as ONNX infers them."""
    outputs = [o.name for o in model.graph.output]
    del model.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {info.name: info for info in inferred.graph.value_info}
    for name in outputs:
        # GroupNormalization has no rule of inference: it is like its input.
        info = onnx.ValueInfoProto()
        known = name in types and types[name].type.tensor_type.HasField("shape")
        info.CopyFrom(types[name] if known else model.graph.input[0])
        info.name = name
        model.graph.output.append(info)
    return model


# ------------------------------------------------------------ one by one

UNARY = {
    "Abs": (-2, 2, 0.1), "Acos": (-0.9, 0.9, 0), "Acosh": (1.1, 3, 0),
    "Asin": (-0.9, 0.9, 0), "Asinh": (-2, 2, 0), "Atan": (-2, 2, 0),
    "Atanh": (-0.9, 0.9, 0), "Cos": (-3, 3, 0), "Cosh": (-2, 2, 0),
    "Erf": (-2, 2, 0), "Exp": (-2, 2, 0), "Log": (0.1, 3, 0),
    "Neg": (-2, 2, 0), "Reciprocal": (0.5, 2, 0), "Sigmoid": (-3, 3, 0),
    "Sin": (-3, 3, 0), "Sinh": (-2, 2, 0), "Sqrt": (0.1, 3, 0),
    "Tan": (-1, 1, 0), "Tanh": (-2, 2, 0), "Relu": (-2, 2, 0.1),
    "Identity": (-2, 2, 0), "Mish": (-3, 3, 0), "HardSwish": (-2, 2, 0.1),
    "Softplus": (-3, 3, 0), "Softsign": (-2, 2, 0.1),
}


@row(*UNARY)
def unary(d, op):
    low, high, gap = UNARY[op]
    return Node({"x": d.f(*d.shape(d.rank()), low=low, high=high, gap=gap)})


@row("Ceil", "Floor", "Round", "Sign")
def steps(d, op):
    x = d.i(*d.shape(2), low=-8, high=8).astype(d.dtype) / 2
    return Node({"x": x}, smooth=False)


@row("IsNaN", "IsInf")
def specials(d, op):
    x = d.f(4, 5)
    x[0, 0], x[1, 1], x[2, 2] = np.nan, np.inf, -np.inf
    attributes = {}
    if op == "IsInf":
        attributes = {"detect_negative": d.one(0, 1),
                      "detect_positive": d.one(0, 1)}
    return Node({"x": x}, attributes, smooth=False)


@row("Not")
def logical_not(d):
    return Node({"x": d.b(*d.shape(2))})


@row("BitwiseNot")
def bitwise_not(d):
    return Node({"x": d.i(3, 4, dtype=np.int32)}, opset=18)


@row("Add", "Sub", "Mul")
def sums(d, op):
    shape = d.shape(d.rank())
    return Node({"a": d.f(*shape), "b": d.f(*d.broadcast(shape))})


@row("Add", "Sub", "Mul", "Div")
def numbers(d, op):
    """One operand is a constant number, before or behind."""
    x, c = d.f(*d.shape(3), gap=0.5), np.array(d.f(1, gap=0.5)[0])
    order = d.one(["x", "c"], ["c", "x"])
    return Node({"x": x}, const={"c": c}, order=order, frozen=["c"])


@row("Add", "Sub", "Mul", "Div", "Mod")
def integers(d, op):
    b = d.i(4, low=1, high=4, dtype=np.int32) * d.one(1, -1)
    return Node({"a": d.i(3, 4, low=-9, high=9, dtype=np.int32),
                 "b": b.astype(np.int32)})


@row("Div")
def quotient(d):
    shape = d.shape(2)
    return Node({"a": d.f(*shape), "b": d.f(*shape, gap=0.5)})


@row("Mod")
def fmod(d):
    return Node({"a": d.f(3, 4, low=0.1, high=0.4) + 1,
                 "b": d.f(3, 4, low=0.6, high=0.9)}, {"fmod": 1})


@row("Pow")
def power(d):
    return Node({"a": d.f(3, 4, low=0.3), "b": d.f(4)}
                if d.one(True, False) else
                {"a": np.abs(d.f(3, 4)) + d.dtype(0.2), "b": d.f(3, 4)})


@row("Pow")
def square(d):
    return Node({"x": d.f(3, 4)}, frozen=["c"],
                const={"c": np.array(d.one(2, 3), d.dtype)})


@row("Pow")
def integer_power(d):
    """The result has the type of the base."""
    return Node({"a": d.f(3, low=0.5), "b": d.i(3, low=0, high=4)})


@row("Sum", "Mean", "Max", "Min")
def variadic(d, op):
    shape = d.shape(2)
    n = d.one(1, 2, 3)
    if op in ("Max", "Min"):
        all_ = d.far(n, *shape)
        return Node({f"x{k}": all_[k] for k in range(n)})
    return Node({f"x{k}": d.f(*(shape if k == 0 else d.broadcast(shape)))
                 for k in range(n)})


@row("And", "Or", "Xor")
def logic(d, op):
    shape = d.shape(3)
    return Node({"a": d.b(*shape), "b": d.b(*d.broadcast(shape))})


@row("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def compare(d, op):
    dtype = d.one(d.dtype, np.int64)
    return Node({"a": d.i(3, 4, low=0, high=3).astype(dtype),
                 "b": d.i(4, low=0, high=3).astype(dtype)}, smooth=False)


@row("BitShift")
def shift(d):
    return Node({"a": d.i(3, 4, low=0, high=100, dtype=np.uint8),
                 "b": d.i(3, 4, low=0, high=3, dtype=np.uint8)},
                {"direction": d.one("LEFT", "RIGHT")})


@row("BitwiseAnd", "BitwiseOr", "BitwiseXor")
def bits(d, op):
    return Node({"a": d.i(3, 4, dtype=np.int32), "b": d.i(4, dtype=np.int32)},
                opset=18)


@row("Where")
def where(d):
    shape = d.shape(3)
    return Node({"c": d.b(*d.broadcast(shape)), "x": d.f(*shape),
                 "y": d.f(*d.broadcast(shape))})


@row("Cast")
def cast(d):
    to = d.one(TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL,
               TensorProto.INT64, TensorProto.DOUBLE)
    x = d.one(d.f(3, 4, gap=0.1), d.i(3, 4), d.b(3, 4))
    return Node({"x": x}, {"to": to}, smooth=False)


@row("CastLike")
def cast_like(d):
    return Node({"x": d.f(3, 4), "y": d.one(d.i(2), d.b(2))}, smooth=False)


@row("Clip")
def clip(d):
    x = d.far(3, 4)
    bounds = {"low": np.array(-0.5, d.dtype), "high": np.array(0.6, d.dtype)}
    if d.one(True, False):
        bounds["low"] = None
    how = d.one("const", "input")
    if how == "const":
        return Node({"x": x}, const=bounds)
    return Node({"x": x, **bounds}, smooth=False)


# ----------------------------------------------------------- activations

@row("Softmax", "LogSoftmax", "Hardmax")
def softmax(d, op):
    rank = d.rank(1, 5)
    return Node({"x": d.far(*d.shape(rank))},
                {"axis": int(d.rng.integers(-rank, rank))},
                smooth=op != "Hardmax")


@row("Gelu")
def gelu(d):
    return Node({"x": d.f(3, 4)}, {"approximate": d.one("none", "tanh")},
                opset=20)


ALPHA = {"Elu": (0.5, 2), "Celu": (0.5, 2), "LeakyRelu": (0.01, 0.5),
         "ThresholdedRelu": (0.5, 1), "Swish": (0.5, 2)}


@row(*ALPHA)
def alpha(d, op):
    a = float(d.f(1, low=ALPHA[op][0], high=ALPHA[op][1])[0])
    attributes = d.one({}, {"alpha": a})
    return Node({"x": d.far(3, 4, step=0.3)}, attributes,
                opset=24 if op == "Swish" else 22, double=op != "Celu")


@row("Selu")
def selu(d):
    return Node({"x": d.f(3, 4, gap=0.1)},
                d.one({}, {"alpha": 1.5, "gamma": 1.25}))


@row("HardSigmoid")
def hard_sigmoid(d):
    return Node({"x": d.far(3, 4)},
                d.one({}, {"alpha": 1 / 6, "beta": 0.5},
                      {"alpha": 0.3, "beta": 0.4}))


@row("PRelu")
def prelu(d):
    shape = d.shape(4)
    slope = d.one((1,), (shape[1], 1, 1), shape[1:], (shape[3],))
    return Node({"x": d.f(*shape, gap=0.1), "slope": d.f(*slope)})


@row("Shrink")
def shrink(d):
    return Node({"x": d.far(3, 5, step=0.3)},
                {"lambd": d.one(0.5, 0.7), "bias": d.one(0.0, 0.5)})


# ------------------------------------------------------------ reductions

REDUCE = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
          "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
          "ReduceSumSquare"]


@row(*REDUCE)
def reduce(d, op):
    rank = d.rank(1, 5)
    x = d.far(*d.shape(rank), step=0.05)
    if op in ("ReduceLogSum", "ReduceProd", "ReduceL2"):
        x = np.abs(x) + d.dtype(0.2)
    axes = sorted(d.rng.choice(rank, d.rank(1, rank + 1), replace=False))
    axes = [int(a) - d.one(0, rank) for a in axes]
    const = {"axes": ints(*axes)} if d.one(True, True, False) else {}
    return Node({"x": x}, {"keepdims": d.one(0, 1)}, const, opset=18)


@row(*REDUCE[1:])
def reduce_by_attribute(d, op):
    """Up to opset 17 the axes are an attribute."""
    x = np.abs(d.far(*d.shape(3), step=0.05)) + d.dtype(0.2)
    return Node({"x": x}, {"axes": [d.one(0, -1, 1)]}, opset=13)


@row("ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd")
def reduce_integers(d, op):
    return Node({"x": d.i(3, 4, dtype=np.int32)}, {"keepdims": 0},
                {"axes": ints(1)}, opset=18)


@row("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
def reduce_nothing(d, op):
    return Node({"x": d.f(3, 4)}, {"noop_with_empty_axes": 1}, opset=18)


@row("ArgMax", "ArgMin")
def arg_most(d, op):
    rank = d.rank(1, 4)
    x = d.i(*d.shape(rank), low=0, high=3).astype(d.dtype)
    return Node({"x": x}, {"axis": int(d.rng.integers(-rank, rank)),
                           "keepdims": d.one(0, 1),
                           "select_last_index": d.one(0, 1)}, smooth=False)


@row("CumSum", "CumProd")
def cumulative(d, op):
    return Node({"x": d.f(3, 4, gap=0.3)},
                {"exclusive": d.one(0, 1), "reverse": d.one(0, 1)},
                {"axis": np.array(d.one(0, 1, -1), np.int64)},
                opset=26 if op == "CumProd" else 14)


# -------------------------------------------------------------- matrices

@row("MatMul")
def matmul(d):
    n, k, m = d.shape(3)
    a, b = d.one(((n, k), (k, m)), ((2, n, k), (k, m)), ((3, 2, n, k), (2, k, m)),
                 ((k,), (k, m)), ((n, k), (k,)))
    return Node({"a": d.f(*a), "b": d.f(*b)})


@row("Gemm")
def gemm(d):
    n, k, m = d.shape(3)
    ta, tb = d.one(0, 1), d.one(0, 1)
    a, b = (k, n) if ta else (n, k), (m, k) if tb else (k, m)
    inputs = {"a": d.f(*a), "b": d.f(*b)}
    if d.one(True, False):
        inputs["c"] = d.f(*d.one((m,), (n, m), (1,), (n, 1), (1, m)))
    attributes = {"transA": ta, "transB": tb}
    if d.one(True, False):
        attributes |= {"alpha": 0.5, "beta": 0.25}
    return Node(inputs, attributes)


@row("Gemm")
def linear(d):
    """As PyTorch exports a linear layer."""
    n, k, m = d.shape(3)
    inputs = {"a": d.f(n, k), "b": d.f(m, k)}
    if d.one(True, False):
        inputs["c"] = d.f(m)
    return Node(inputs, {"transB": 1})


@row("Einsum")
def einsum(d):
    n, k, m = d.shape(3)
    equation, *shapes = d.one(("ij,jk->ik", (n, k), (k, m)),
                              ("bij,kj->bik", (2, n, k), (m, k)),
                              ("ii->i", (n, n)),
                              ("bhid,bhjd->bhij", (2, 2, n, k), (2, 2, m, k)))
    return Node({f"x{i}": d.f(*s) for i, s in enumerate(shapes)},
                {"equation": equation})


@row("Det")
def determinant(d):
    x = d.f(*d.one((3, 3), (2, 3, 3)))
    return Node({"x": x + 3 * np.eye(3, dtype=d.dtype)})


# ------------------------------------------- convolutions and pooling

def windows(d, dims, kernel):
    """Strides, dilations and padding."""
    attributes = {"strides": [d.one(1, 2) for _ in range(dims)],
                  "dilations": [d.one(1, 1, 2) for _ in range(dims)]}
    how = d.one("pads", "same", "uneven", "none", "valid")
    if how == "pads":
        attributes["pads"] = [1] * (2 * dims)
    elif how == "uneven":
        attributes["pads"] = [d.one(0, 1) for _ in range(2 * dims)]
    elif how == "same":
        attributes["auto_pad"] = d.one("SAME_UPPER", "SAME_LOWER")
        attributes["dilations"] = [1] * dims
    elif how == "valid":
        attributes["auto_pad"] = "VALID"
    return attributes


@row("Conv")
def conv(d):
    dims = d.one(1, 2, 2, 3)
    group = d.one(1, 2)
    kernel = [d.one(1, 2, 3) for _ in range(dims)]
    inputs = {"x": d.f(2, 2 * group, *d.shape(dims, 6, 8)),
              "w": d.f(2 * group, 2, *kernel)}
    if d.one(True, False):
        inputs["b"] = d.f(2 * group)
    return Node(inputs, {"group": group, "kernel_shape": kernel,
                         **windows(d, dims, kernel)})


@row("ConvTranspose")
def conv_transpose(d):
    dims = d.one(1, 2, 2)
    group = d.one(1, 2)
    kernel = [d.one(2, 3) for _ in range(dims)]
    strides = [d.one(2, 3) for _ in range(dims)]
    attributes = {"group": group, "strides": strides}
    size = d.shape(dims, 3, 5)
    how = d.one("none", "pads", "more", "same", "shape")
    if how == "pads":
        attributes["pads"] = [d.one(0, 1) for _ in range(2 * dims)]
    elif how == "more":
        attributes |= {"pads": [1] * (2 * dims), "output_padding": [1] * dims}
    elif how == "same":
        attributes["auto_pad"] = d.one("SAME_UPPER", "SAME_LOWER")
        attributes["kernel_shape"] = kernel
    elif how == "shape":
        attributes["output_shape"] = [
            (n - 1) * s + k - d.one(0, 1)
            for n, s, k in zip(size, strides, kernel)]
    if how == "same":
        kernel = [max(k, s) for k, s in zip(kernel, strides)]
        attributes["kernel_shape"] = kernel
    inputs = {"x": d.f(2, 2 * group, *size), "w": d.f(2 * group, 3, *kernel)}
    if d.one(True, False):
        inputs["b"] = d.f(3 * group)
    return Node(inputs, attributes)


@row("Col2Im")
def col2im(d):
    return Node({"x": d.f(1, 3 * 4, 9)}, {"strides": [1, 1]},
                {"image": ints(4, 4), "block": ints(2, 2)}, opset=18)


@row("MaxPool")
def max_pool(d):
    dims = d.one(1, 2, 2, 3)
    kernel = [d.one(2, 3) for _ in range(dims)]
    attributes = {"kernel_shape": kernel, **windows(d, dims, kernel)}
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = d.one(0, 1)
    return Node({"x": d.far(2, 2, *d.shape(dims, 6, 8), step=0.05)}, attributes)


@row("MaxPool")
def max_pool_indices(d):
    return Node({"x": d.far(2, 3, 6, 7, step=0.05)},
                {"kernel_shape": [2, 3], "strides": [2, 1],
                 "pads": [1, 1, 1, 1]}, outputs=2)


@row("AveragePool")
def average_pool(d):
    dims = d.one(1, 2, 2, 3)
    kernel = [d.one(2, 3) for _ in range(dims)]
    attributes = {"kernel_shape": kernel, **windows(d, dims, kernel),
                  "count_include_pad": d.one(0, 1)}
    del attributes["dilations"]
    return Node({"x": d.f(2, 2, *d.shape(dims, 6, 8))}, attributes)


@row("LpPool")
def lp_pool(d):
    return Node({"x": d.f(2, 2, 6, 6, gap=0.2)},
                {"kernel_shape": [2, 3], "strides": [d.one(1, 2)] * 2,
                 "p": d.one(1, 2, 3)}, opset=18)


@row("GlobalAveragePool", "GlobalMaxPool")
def global_pool(d, op):
    return Node({"x": d.far(*d.shape(d.rank(3, 6)))})


@row("GlobalLpPool")
def global_lp_pool(d):
    return Node({"x": d.f(2, 3, 4, 4, gap=0.2)}, {"p": d.one(1, 2, 3)})


# -------------------------------------------------------- normalisations

@row("BatchNormalization")
def batch_norm(d):
    c = 3
    return Node({"x": d.f(*d.one((4, c), (2, c, 4), (2, c, 4, 5))),
                 "scale": d.f(c), "b": d.f(c), "mean": d.f(c),
                 "var": d.f(c, low=0.5, high=2)},
                d.one({}, {"epsilon": 0.01}), opset=15)


@row("BatchNormalization")
def batch_norm_training(d):
    c = 3
    return Node({"x": d.f(4, c, 5), "scale": d.f(c), "b": d.f(c),
                 "mean": d.f(c), "var": d.f(c, low=0.5, high=2)},
                {"training_mode": 1, "momentum": 0.8}, outputs=3, opset=15)


@row("InstanceNormalization")
def instance_norm(d):
    return Node({"x": d.f(2, 3, 4, 5), "scale": d.f(3), "b": d.f(3)},
                d.one({}, {"epsilon": 0.01}))


@row("LayerNormalization")
def layer_norm(d):
    shape = d.shape(3, 3, 6)
    axis = d.one(-1, 1, 2)
    covered = shape[axis:]
    inputs = {"x": d.f(*shape), "scale": d.f(*covered)}
    if d.one(True, False):
        inputs["b"] = d.f(*covered)
    return Node(inputs, {"axis": axis, "epsilon": d.one(1e-5, 1e-3)}, opset=17)


@row("LayerNormalization")
def layer_norm_statistics(d):
    return Node({"x": d.f(3, 4, 5), "scale": d.f(1), "b": d.f(5)},
                {"axis": -1}, outputs=3, opset=17, smooth=False)


@row("GroupNormalization")
def group_norm(d):
    n = d.one(4, 6)
    return Node({"x": d.f(2, n, 3, 3), "scale": d.f(n), "b": d.f(n)},
                {"num_groups": 2}, opset=21)


@row("RMSNormalization")
def rms_norm(d):
    shape = d.shape(3, 3, 6)
    axis = d.one(-1, 1)
    scale = d.one(shape[axis:], (1,))
    return Node({"x": d.f(*shape), "scale": d.f(*scale)},
                {"axis": axis, "epsilon": 1e-5}, opset=23)


@row("LpNormalization")
def lp_norm(d):
    return Node({"x": d.f(3, 4, gap=0.2)}, {"axis": d.one(0, -1),
                                            "p": d.one(1, 2)})


@row("LRN")
def lrn(d):
    return Node({"x": d.f(2, 6, 3, 3)},
                {"size": d.one(3, 5), "alpha": 0.1, "beta": 0.6, "bias": 1.5})


@row("LRN")
def lrn_even(d):
    """Of an even number of channels more lie behind: ONNX's text, which
    onnxruntime refuses and the evaluator reads otherwise."""
    def check(outputs, feeds):
        x = feeds["x"].astype(np.float64)
        for c in range(6):
            total = (x[:, max(c - 1, 0):c + 3] ** 2).sum(axis=1)
            np.testing.assert_allclose(outputs[0][:, c],
                                       x[:, c] / (1 + 0.1 / 4 * total) ** 0.75,
                                       rtol=1e-4, atol=1e-5)
    return Node({"x": d.f(2, 6, 3, 3)}, {"size": 4, "alpha": 0.1}, check=check)


@row("MeanVarianceNormalization")
def mean_variance(d):
    return Node({"x": d.f(2, 3, 4, 4)}, d.one({}, {"axes": [0, 2, 3]},
                                              {"axes": [1]}), double=False)


@row("Dropout")
def dropout(d):
    return Node({"x": d.f(3, 4)}, outputs=2, smooth=True)


@row("Dropout")
def dropout_training(d):
    def check(outputs, feeds):
        y, mask = outputs
        x = feeds["x"]
        assert 0.6 < mask.mean() < 0.8
        np.testing.assert_allclose(y, np.where(mask, x / 0.7, 0), rtol=1e-5)
    return Node({"x": d.f(50, 50)}, outputs=2, smooth=False, check=check,
                const={"ratio": np.array(0.3, np.float32),
                       "training": np.array(True)})


# ---------------------------------------------------------------- layout

@row("Shape")
def shape(d):
    return Node({"x": d.f(*d.shape(4))},
                d.one({}, {"start": 1}, {"start": -3, "end": -1}, {"end": 2}),
                smooth=False)


@row("Size")
def size(d):
    return Node({"x": d.f(*d.shape(3))}, smooth=False)


@row("Reshape")
def reshape(d):
    a, b, c = d.shape(3)
    to = d.one((a * b, c), (0, -1), (c, b, a), (-1,), (0, 0, c, 1))
    return Node({"x": d.f(a, b, c)}, const={"to": ints(*to)})


@row("Reshape")
def reshape_zero(d):
    return Node({"x": d.f(0, 3)}, {"allowzero": 1}, {"to": ints(3, 0)},
                smooth=False)


@row("Flatten")
def flatten(d):
    return Node({"x": d.f(*d.shape(4))}, {"axis": int(d.rng.integers(-4, 5))})


@row("Transpose")
def transpose(d):
    rank = d.rank(2, 5)
    order = [int(n) for n in d.rng.permutation(rank)]
    return Node({"x": d.f(*d.shape(rank))}, d.one({}, {"perm": order}))


@row("Squeeze")
def squeeze(d):
    return Node({"x": d.f(1, 3, 1, 4)},
                const=d.one({}, {"axes": ints(0)}, {"axes": ints(-2, 0)}))


@row("Unsqueeze")
def unsqueeze(d):
    return Node({"x": d.f(3, 4)},
                const={"axes": ints(*d.one((0,), (-1,), (0, 3), (2, 1)))})


@row("Concat")
def concat(d):
    axis = d.one(0, 1, -1)
    shapes = [[2, 3, 4] for _ in range(d.one(1, 2, 3))]
    for s in shapes:
        s[axis] = d.one(1, 2, 5)
    return Node({f"x{i}": d.f(*s) for i, s in enumerate(shapes)},
                {"axis": axis})


@row("Split")
def split(d):
    sizes = d.one((2, 2, 2), (1, 2, 3), (6,))
    return Node({"x": d.f(3, 6, 2)}, {"axis": d.one(1, -2)},
                {"sizes": ints(*sizes)}, outputs=len(sizes))


@row("Split")
def split_evenly(d):
    n = d.one(6, 7)
    return Node({"x": d.f(n, 2)}, {"num_outputs": 3, "axis": 0}, outputs=3,
                opset=18)


@row("Slice")
def slice_(d):
    step = d.one(1, 2, -1, -2)
    start, end = d.one((0, 2**63 - 1), (1, -1), (-3, 4), (2, 2)) if step > 0 \
        else d.one((-1, -2**63), (2**31 - 1, 0), (3, -6), (-2, 1))
    return Node({"x": d.f(3, 5)},
                const={"starts": ints(start), "ends": ints(end),
                       "axes": ints(d.one(1, -1)), "steps": ints(step)})


@row("Slice")
def slice_two(d):
    return Node({"x": d.f(4, 5, 3)},
                const={"starts": ints(1, 0), "ends": ints(3, -1)})


@row("Expand")
def expand(d):
    to = d.one((2, 3, 4), (3, 1), (1, 1), (5, 1, 3, 4), (3, 4))
    return Node({"x": d.f(3, d.one(1, 4) if to[-1] in (1, 4) else 1)},
                const={"to": ints(*to)})


@row("Tile")
def tile(d):
    return Node({"x": d.f(2, 3)},
                const={"times": ints(d.one(1, 2), d.one(1, 3))})


@row("Pad")
def pad(d):
    mode = d.one("constant", "reflect", "edge", "wrap")
    const = {"pads": ints(0, 2, 1, 0, 1, 2)}
    if mode == "constant":
        const = {"pads": ints(0, 2, -1, 0, 1, 2),
                 "value": np.array(1.5, d.dtype)}
    return Node({"x": d.f(2, 3, 4)}, {"mode": mode}, const, opset=19)


@row("Pad")
def pad_axes(d):
    return Node({"x": d.f(2, 3, 4)}, const={
        "pads": ints(1, 2), "value": None, "axes": ints(-1)},
        opset=18)


@row("DepthToSpace")
def depth_to_space(d):
    return Node({"x": d.f(2, 8, 3, 2)}, {"blocksize": 2,
                                         "mode": d.one("DCR", "CRD")})


@row("SpaceToDepth")
def space_to_depth(d):
    return Node({"x": d.f(2, 3, 4, 6)}, {"blocksize": 2})


@row("Trilu")
def trilu(d):
    return Node({"x": d.f(*d.one((4, 5), (2, 3, 3)))}, {"upper": d.one(0, 1)},
                const=d.one({}, {"k": np.array(d.one(-1, 1, 2), np.int64)}))


@row("CenterCropPad")
def center_crop_pad(d):
    return Node({"x": d.f(5, 4, 3)}, {"axes": [0, -1]},
                {"to": ints(d.one(2, 3, 7, 8), d.one(2, 6, 3))}, opset=18)


@row("ReverseSequence")
def reverse_sequence(d):
    time = d.one(0, 1)
    return Node({"x": d.f(3, 3, 2), "lengths": ints(1, 3, 2)},
                {"time_axis": time, "batch_axis": 1 - time})


# --------------------------------------------------------------- indices

@row("Gather")
def gather(d):
    axis = d.one(0, 1, -1)
    at = d.i(*d.one((), (3,), (2, 2)), low=-3, high=3)
    at = at.astype(d.one(np.int32, np.int64))
    inputs, const = {"x": d.f(3, 3, 3)}, {}
    (const if d.one(True, False) else inputs)["at"] = at
    return Node(inputs, {"axis": axis}, const)


@row("GatherElements")
def gather_elements(d):
    return Node({"x": d.f(3, 4), "at": d.i(3, 2, low=-3, high=3)},
                {"axis": d.one(0, 1, -1)})


@row("GatherND")
def gather_nd(d):
    batch = d.one(0, 1)
    at = d.i(2, 3, d.one(1, 2), low=-2, high=2)
    return Node({"x": d.f(2, 3, 3, 2), "at": at}, {"batch_dims": batch})


@row("ScatterElements")
def scatter_elements(d):
    how = d.one("none", "add", "mul", "max", "min")
    at = np.array([[0, 2], [-1, 1]], np.int64)  # no place twice
    return Node({"x": d.far(3, 3), "at": at, "y": d.far(2, 2) + d.dtype(0.1)},
                {"axis": 1, "reduction": how}, opset=18)


@row("ScatterND")
def scatter_nd(d):
    how = d.one("none", "add", "mul", "max", "min")
    at = np.array([[0, 1], [-1, 2]], np.int64)
    return Node({"x": d.far(3, 3, 2), "at": at, "y": d.far(2, 2) + d.dtype(0.1)},
                {"reduction": how}, opset=18)


@row("NonZero")
def non_zero(d):
    return Node({"x": d.i(3, 4, low=0, high=2).astype(d.dtype)}, smooth=False)


@row("OneHot")
def one_hot(d):
    return Node({"at": d.i(2, 3, low=-4, high=5)}, {"axis": d.one(0, 1, -1)},
                {"depth": np.array(4, np.int64),
                 "values": np.array([0.5, 2], d.dtype)})


@row("TopK")
def top_k(d):
    ties = d.one(True, False)
    x = d.i(3, 5, low=0, high=3).astype(d.dtype) if ties else d.far(3, 5)
    return Node({"x": x}, {"axis": d.one(1, -1), "largest": d.one(0, 1)},
                {"k": ints(d.one(1, 3))}, outputs=2, smooth=not ties)


@row("Unique")
def unique(d):
    whole = d.one(True, False)
    x = d.i(4, 3, low=0, high=2 if not whole else 5).astype(d.dtype)
    attributes = {"sorted": d.one(0, 1)} | ({} if whole else {"axis": 0})
    return Node({"x": x}, attributes, outputs=4, smooth=False)


@row("Compress")
def compress(d):
    return Node({"x": d.f(3, 4), "c": np.array([True, False, True])},
                d.one({}, {"axis": 1}, {"axis": 0}))


# ------------------------------------------------------ made from nothing

@row("Constant")
def constant(d):
    value = d.one({"value": numpy_helper.from_array(d.f(2, 3))},
                  {"value_float": 0.1}, {"value_int": 3},
                  {"value_ints": [1, 2]}, {"value_floats": [0.5, 0.1]})
    return Node({}, value, smooth=False)


@row("ConstantOfShape")
def constant_of_shape(d):
    value = d.one({}, {"value": numpy_helper.from_array(
        np.array([3], d.one(np.int64, np.float32)))})
    return Node({}, value, {"shape": ints(2, 3)}, smooth=False)


@row("Range")
def range_(d):
    start, limit, delta = d.one((1, 7, 2), (5, -2, -3), (0, 0, 1))
    dtype = d.one(np.int64, np.float32)
    made = {"start": np.array(start, dtype), "limit": np.array(limit, dtype),
            "delta": np.array(delta, dtype)}
    return d.one(Node({}, {}, made, smooth=False), Node(made, smooth=False))


@row("EyeLike")
def eye_like(d):
    return Node({"x": d.f(3, 4)}, {"k": d.one(-1, 0, 2),
                                   "dtype": d.one(1, 7)}, smooth=False)


def moments(mean, deviation):
    def check(outputs, feeds):
        y = outputs[0]
        assert y.shape == (100, 100)
        assert abs(y.mean() - mean) < 0.05
        assert abs(y.std() - deviation) < 0.05
    return check


@row("RandomNormal", "RandomNormalLike")
def random_normal(d, op):
    like = op.endswith("Like")
    return Node({"x": d.f(100, 100)} if like else {},
                {"mean": 1.0, "scale": 0.5}
                | ({} if like else {"shape": [100, 100]}),
                smooth=False, check=moments(1, 0.5))


@row("RandomUniform", "RandomUniformLike")
def random_uniform(d, op):
    like = op.endswith("Like")
    return Node({"x": d.f(100, 100)} if like else {},
                {"low": 1.0, "high": 3.0}
                | ({} if like else {"shape": [100, 100]}),
                smooth=False, check=moments(2, 2 / 12 ** 0.5))


@row("Bernoulli")
def bernoulli(d):
    x = np.full((100, 100), 0.3, d.dtype)
    return Node({"x": x}, {"dtype": d.one(1, 6, 9)}, smooth=False, opset=15,
                check=moments(0.3, 0.21 ** 0.5))


@row("Multinomial")
def multinomial(d):
    def check(outputs, feeds):
        counts = np.stack([(outputs[0] == k).mean(axis=1) for k in range(3)])
        assert outputs[0].dtype == np.int32
        np.testing.assert_allclose(counts[:, 0], [0.2, 0.3, 0.5], atol=0.05)
    x = np.log(np.array([[2, 3, 5]], d.dtype))
    return Node({"x": x}, {"sample_size": 4000}, smooth=False, check=check)


# ---------------------- images, recurrent layers, attention, losses

@row("Resize")
def resize(d):
    """What PyTorch exports."""
    mode, extra = d.one(
        ("nearest", {"coordinate_transformation_mode": "asymmetric",
                     "nearest_mode": "floor"}),
        ("linear", {"coordinate_transformation_mode": "half_pixel"}),
        ("linear", {"coordinate_transformation_mode": "align_corners"}),
        ("linear", {"coordinate_transformation_mode": "pytorch_half_pixel"}),
        ("cubic", {"coordinate_transformation_mode": "half_pixel"}))
    const = {"roi": None}
    if d.one(True, False):
        const["scales"] = np.array([1, 1, 2, d.one(1.5, 3)], np.float32)
    else:
        const |= {"scales": None, "sizes": ints(2, 2, 7, d.one(3, 8))}
    return Node({"x": d.f(2, 2, 4, 4)}, {"mode": mode, **extra}, const, opset=19)


@row("Resize")
def resize_generally(d):
    """What it does not."""
    mode = d.one("nearest", "linear", "cubic")
    coordinates = d.one("half_pixel", "asymmetric", "align_corners",
                        "half_pixel_symmetric")
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = d.one("round_prefer_floor", "floor",
                                           "round_prefer_ceil", "ceil")
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": -0.5,
                       "exclude_outside": d.one(0, 1)}
    return Node({"x": d.f(2, 4, 5)}, attributes,
                {"roi": None, "scales": None,
                 "sizes": ints(2, d.one(3, 6), d.one(4, 9))}, opset=19)


@row("Resize")
def resize_crop(d):
    return Node({"x": d.f(1, 1, 5, 5)},
                {"mode": "linear", "extrapolation_value": 9.0,
                 "coordinate_transformation_mode": "tf_crop_and_resize"},
                {"roi": np.array([0, 0, 0.2, -0.1, 1, 1, 0.7, 1.2], np.float32),
                 "scales": None, "sizes": ints(1, 1, 3, 6)}, opset=19)


@row("GridSample")
def grid_sample(d):
    grid = d.f(2, 3, 3, 2, low=-1.2, high=1.2)
    return Node({"x": d.f(2, 2, 5, 6), "grid": grid},
                {"mode": d.one("linear", "nearest", "cubic"),
                 "padding_mode": d.one("zeros", "border", "reflection"),
                 "align_corners": d.one(0, 1)}, smooth=False, opset=20)


@row("AffineGrid")
def affine_grid(d):
    theta, size = d.one((d.f(2, 2, 3), ints(2, 3, 4, 5)),
                        (d.f(2, 3, 4), ints(2, 1, 3, 4, 2)))
    return Node({"theta": theta}, {"align_corners": d.one(0, 1)},
                {"size": size}, opset=20)


@row("LSTM", "GRU", "RNN")
def recurrent(d, op):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    direction = d.one("forward", "reverse", "bidirectional")
    n = 2 if direction == "bidirectional" else 1
    t, batch, i, h = 4, 2, 3, 5
    inputs = {"x": d.f(t, batch, i), "w": d.f(n, gates * h, i),
              "r": d.f(n, gates * h, h)}
    if d.one(True, False):
        inputs["b"] = d.f(n, 2 * gates * h)
        if d.one(True, False):
            inputs |= {"lengths": None, "h0": d.f(n, batch, h)}
            if op == "LSTM":
                inputs["c0"] = d.f(n, batch, h)
    attributes = {"direction": direction, "hidden_size": h}
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    return Node(inputs, attributes, outputs=3 if op == "LSTM" else 2, opset=14)


@row("Attention")
def attention(d):
    heads, kv = d.one((2, 2), (4, 2))
    q, k, v = (d.f(2, n, s, 4) for n, s in ((heads, 3), (kv, 5), (kv, 5)))
    attributes = d.one({}, {"scale": 0.3}, {"is_causal": 1})
    if d.one(True, False):  # three dimensions
        q, k, v = (x.transpose(0, 2, 1, 3).reshape(2, x.shape[2], -1)
                   for x in (q, k, v))
        attributes |= {"q_num_heads": heads, "kv_num_heads": kv}
    inputs = {"q": q, "k": k, "v": v}
    if d.one(True, False):
        inputs["mask"] = d.f(3, 5)
    return Node(inputs, attributes, opset=23)


@row("NegativeLogLikelihoodLoss")
def likelihood(d):
    extra = d.one((), (4,))
    inputs = {"x": d.f(3, 5, *extra), "t": d.i(3, *extra, low=0, high=5)}
    if d.one(True, False):
        inputs["w"] = d.f(5, low=0.5, high=1.5)
    return Node(inputs, {"reduction": d.one("none", "mean", "sum")}
                | d.one({}, {"ignore_index": 2}), fixed=["w"])


@row("SoftmaxCrossEntropyLoss")
def cross_entropy(d):
    node = likelihood(d)
    node.outputs = d.one(1, 2)
    return node
