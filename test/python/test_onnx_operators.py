"""Each operator that is imported, by the table of onnx_cases.py: its values
against onnxruntime (ONNX's own evaluator where that has no kernel), in float32
and float64, and its gradients against finite differences in float64."""

import collections
import dataclasses
import subprocess
import warnings
import zlib

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch

from conftest import TOOL
from onnx_cases import ROWS, Draw, model_of
from onnx_tools import convert_all

DRAWS = 3  # models for each row
DTYPES = {"float32": np.float32, "float64": np.float64}

onnxruntime.set_default_logger_severity(4)


def seed(op, k, draw):
    return zlib.crc32(f"{op} {k} {draw}".encode())


CASES = [(op, k) for op, makers in sorted(ROWS.items())
         for k in range(len(makers))]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """All models, imported by one process: (op, k, dtype, draw) to the node, the
    model and the answer, or the archive's path."""
    folder = tmp_path_factory.mktemp("operators")
    made, jobs = {}, []
    for op, k in CASES:
        for dtype in DTYPES:
            for draw in range(DRAWS):
                key = op, k, dtype, draw
                node = ROWS[op][k](Draw(seed(op, k, draw), DTYPES[dtype]))
                if dtype == "float64" and not node.double:
                    continue
                model = model_of(op, node)
                stem = folder / "_".join(map(str, key))
                onnx.save(model, f"{stem}.onnx")
                made[key] = node, model
                jobs.append((key, f"{stem}.onnx", f"{stem}.pt"))
    answers = convert_all([(source, target) for _, source, target in jobs])
    return {key: (*made[key], target, answer)
            for (key, _, target), answer in zip(jobs, answers, strict=True)}


def in_onnxruntime(model, feeds):
    """What onnxruntime gives; None where it cannot (its errors have no class in
    common: no kernel, no such opset, a form that it refuses)."""
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = \
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options).run(None, feeds)
    except Exception:
        return None


def single(values):
    return {name: value if value is None or value.dtype != np.float64
            else value.astype(np.float32) for name, value in values.items()}


def reference(op, node, model):
    """onnxruntime, as it is, in float32 or by an older definition; ONNX's own
    evaluator where that has no kernel."""
    expected = in_onnxruntime(model, feeds_of(node))
    for opset in (None, 21):
        if expected is None and not (opset and (node.opset or 23) <= opset):
            narrow = dataclasses.replace(node, inputs=single(node.inputs),
                                         const=single(node.const))
            expected = in_onnxruntime(model_of(op, narrow, opset),
                                      feeds_of(narrow))
    if expected is None:
        evaluator = onnx.reference.ReferenceEvaluator(model)
        expected = evaluator.run(None, feeds_of(node))
    return expected


def feeds_of(node):
    return {name: value for name, value in node.inputs.items()
            if value is not None}


def run(path, feeds):
    outputs = torch.jit.load(path)(*(torch.tensor(v) for v in feeds.values()))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [y.detach().numpy() for y in outputs]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op,k", CASES)
def test_values(archives, op, k, dtype):
    for draw in range(DRAWS):
        if (op, k, dtype, draw) not in archives:
            continue
        node, model, path, answer = archives[op, k, dtype, draw]
        assert answer == "ok", model
        feeds = feeds_of(node)
        actual = run(path, feeds)
        if node.check:
            node.check(actual, feeds)
            continue
        expected = reference(op, node, model)
        assert len(actual) == len(expected)
        for have, want in zip(actual, expected):
            want = np.asarray(want)
            types = {want.dtype, np.dtype(dtype)
                     if want.dtype == np.float32 else want.dtype}
            assert have.dtype in types, model
            assert have.shape == want.shape, model
            np.testing.assert_allclose(have, want, rtol=node.tolerance,
                                       atol=node.tolerance, err_msg=str(model))


SMOOTH = [(op, k) for op, k in CASES
          if (first := ROWS[op][k](Draw(seed(op, k, 0), np.float64))).smooth
          and first.double and any(v is not None and v.dtype == np.float64
                                   for v in first.inputs.values())]


@pytest.mark.parametrize("op,k", SMOOTH)
def test_gradients(archives, op, k):
    for draw in range(DRAWS):
        node, model, path, answer = archives[op, k, "float64", draw]
        assert answer == "ok", model
        if not node.smooth:
            continue
        module = torch.jit.load(path)
        inputs = [torch.tensor(v, requires_grad=v.dtype == np.float64
                               and name not in node.fixed)
                  for name, v in feeds_of(node).items()]

        def outputs(*inputs):
            y = module(*inputs)
            y = y if isinstance(y, tuple) else (y,)
            return tuple(t for t in y if t.is_floating_point())

        if not any(i.requires_grad for i in inputs):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6,
                                            atol=1e-5, rtol=1e-4,
                                            nondet_tol=1e-8), model


def table():
    lines = subprocess.run([TOOL, "--list-onnx-operators"], check=True,
                           capture_output=True, text=True).stdout.splitlines()
    return [(name, int(first), int(last))
            for name, first, last in map(str.split, lines)]


def test_every_row_has_a_test():
    names = [name for name, _, _ in table()]
    assert sorted(names) == sorted(ROWS)
    assert not [n for n, count in collections.Counter(names).items() if count > 1]


def test_every_definition_is_that_of_onnx():
    """`first` and `last` name definitions that there are, and no newer one is
    taken for read."""
    versions = collections.defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            versions[schema.name].add(schema.since_version)
    for name, first, last in table():
        assert {first, last} <= versions[name]
        assert first >= max([v for v in versions[name] if v <= 13], default=13)
