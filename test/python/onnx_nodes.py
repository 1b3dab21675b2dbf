"""The node tests that ship inside the onnx package, imported and compared with
the outputs that they expect.

    python test/python/onnx_nodes.py          prints the counts
    python test/python/onnx_nodes.py --write  writes them into docs/onnx.md
"""

import collections
import pathlib
import re
import sys
import tempfile
import warnings

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from conftest import ROOT
from onnx_tools import convert_all

DOCS = ROOT / "docs/onnx.md"
# What differs, and is known to (docs/onnx.md, "What is as in PyTorch" and
# "Limits"); tests of random numbers are told apart by their names.
RANDOM = ("bernoulli", "training_dropout")
KNOWN = {
    "test_reduce_max_empty_set": "run",
    "test_reduce_max_empty_set_bool": "run",
    "test_reduce_min_empty_set": "run",
    "test_reshape_zero_and_negative_dim": "run",
    "test_reshape_zero_dim": "run",
    "test_resize_downsample_scales_cubic_align_corners": "values",
    "test_resize_downsample_scales_linear_align_corners": "values",
}
BFLOAT16 = onnx.TensorProto.BFLOAT16
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE,
          onnx.TensorProto.FLOAT16, BFLOAT16}


def cases():
    """Those that are made by the package itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda case: case.name)


def arrays(values):
    """What torch can take: of 16 bits of a kind that numpy lacks, float32."""
    made = [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto)
            else np.asarray(v) for v in values]
    return [v.astype(np.float32) if v.dtype.name == "bfloat16" else v
            for v in made]


def numpy_of(tensor):
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 \
        else tensor.numpy()


def run(case, archive, inputs_left=None):
    """"passed", or what is wrong."""
    try:
        model = torch.jit.load(str(archive))
        with torch.no_grad():
            inputs, expected = map(arrays, case.data_sets[0])
            inputs = inputs[:inputs_left]
            types = [i.type.tensor_type.elem_type for i in
                     case.model.graph.input]
            inputs = [torch.tensor(x).bfloat16() if t == BFLOAT16
                      else torch.tensor(x) for x, t in zip(inputs, types)]
            outputs = model(*inputs)
    except RuntimeError as error:
        return "run: " + str(error).strip().splitlines()[-1]
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    half = any(y.dtype in (torch.float16, torch.bfloat16) for y in outputs)
    bound = 2e-2 if half else 1e-3
    for have, want in zip(outputs, expected):
        if tuple(have.shape) != want.shape:
            return f"shape: {tuple(have.shape)} for {want.shape}"
        if not np.allclose(numpy_of(have), want, rtol=bound, atol=bound / 100,
                           equal_nan=True):
            return "values"
    return "passed"


def with_settings(case):
    """The model with all inputs but the first as initializers: the tests hand in
    as inputs what exporters write as constants (axes, scales, ratios)."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [i.name for i in model.graph.input]
    for name, value in list(zip(names, arrays(case.data_sets[0][0])))[1:]:
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    del model.graph.input[1:]
    return model


def results():
    """Of each test: its operator, whether it is of floating point, and
    "passed", "refused: MESSAGE" or what is wrong."""
    all_ = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for case in cases():
            source = pathlib.Path(folder) / f"{case.name}.onnx"
            source.write_bytes(case.model.SerializeToString())
            jobs.append((case, source, source.with_suffix(".pt")))
        answers = convert_all([(source, target) for _, source, target in jobs])
        for (case, _, target), answer in zip(jobs, answers):
            graph = case.model.graph
            floats = bool(graph.input) and any(
                i.type.tensor_type.elem_type in FLOATS for i in graph.input)
            if answer == "ok":
                try:
                    outcome = run(case, target)
                except TypeError as error:  # a dtype that numpy or torch lacks
                    outcome = f"run: {error}"
            else:
                code, message = answer.split(" ", 2)[1:]
                outcome = ("refused: " if code == "2" else "failed: ") + message
            if "only the run can tell" in outcome and len(graph.input) > 1:
                source = target.with_suffix(".settings.onnx")
                source.write_bytes(with_settings(case).SerializeToString())
                again, = convert_all([(source, target)])
                if again == "ok":
                    outcome = run(case, target, 1)
            all_[case.name] = (graph.node[-1].op_type, floats, outcome)
    return all_


def summary(all_):
    kinds = collections.Counter(o.split(":")[0] for _, _, o in all_.values())
    floats = [o for _, f, o in all_.values() if f]
    passed = sum(o == "passed" for o in floats)
    lines = [f"Of {len(all_)} node tests {kinds['passed']} pass, "
             f"{kinds['refused']} are refused, "
             f"{len(all_) - kinds['passed'] - kinds['refused']} differ or do not "
             f"run. Of the {len(floats)} in floating point {passed} pass "
             f"({100 * passed / len(floats):.0f} %).", "",
             "| operator | refused | why |", "|---|---|---|"]
    refused = collections.defaultdict(list)
    for name, (op, _, outcome) in all_.items():
        if outcome.startswith("refused"):
            message = outcome.partition(".onnx: ")[2] or outcome
            message = re.sub(r" \((node|which makes) '[^']*'\)| at '.*", "",
                             message)[:100]
            refused[op, message.replace("|", "/")].append(name)
    lines += [f"| {op} | {len(names)} | {message} |"
              for (op, message), names in sorted(refused.items())]
    lines += ["", "| test | differs |", "|---|---|"]
    lines += [f"| {name} | {outcome[:100].replace('|', '/')} |"
              for name, (_, _, outcome) in sorted(all_.items())
              if outcome != "passed" and not outcome.startswith("refused")]
    return "\n".join(lines) + "\n"


def section():
    text = DOCS.read_text()
    begin, end = "<!-- node tests -->\n", "<!-- end -->\n"
    return text, text.index(begin) + len(begin), text.index(end)


if __name__ == "__main__":
    written = summary(results())
    if "--write" in sys.argv:
        text, begin, end = section()
        DOCS.write_text(text[:begin] + written + text[end:])
    else:
        print(written)
