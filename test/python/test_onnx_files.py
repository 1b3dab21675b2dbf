"""ONNX files that are damaged or hostile, weights in files beside the model, and
what the tool shows of the libraries inside it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from conftest import LIBRARIES, LIBRARY, TOOL


def tensor_type(name, *sizes, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, sizes)


def linear(weight=None, opset=17, **more):
    """y = x + w, with whatever `more` says of the graph."""
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w") \
        if weight is None else weight
    nodes = more.get("nodes", [helper.make_node("Add", ["x", "w"], ["y"])])
    graph = helper.make_graph(nodes, "net", [tensor_type("x", "n", 4)],
                              [tensor_type("y", "n", 4)],
                              more.get("initializers", [weight]))
    return helper.make_model(
        graph, functions=more.get("functions", []), ir_version=8,
        opset_imports=more.get("opsets", [helper.make_opsetid("", opset)]))


def convert(folder, model, code=0, *options):
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes)
                     else model.SerializeToString())
    target = folder / "out.pt"
    done = subprocess.run([TOOL, path, "-q", "-o", target, *options],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert target.exists() == (code == 0)
    assert done.stderr.count("\n") == (code != 0), done.stderr
    return torch.jit.load(str(target)) if code == 0 else done.stderr


def external(location, offset=None, length=None, size=4, dtype=TensorProto.FLOAT):
    tensor = TensorProto(name="w", data_type=dtype, dims=[size],
                         data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset),
                       ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


# -------------------------------------------------------------- external data

def test_weights_are_read_by_offset(tmp_path):
    (tmp_path / "deep").mkdir()
    data = np.arange(16, dtype=np.float32)
    (tmp_path / "deep/weights.bin").write_bytes(data.tobytes())
    model = convert(tmp_path, linear(external("deep/weights.bin", 16, 16)))
    assert torch.equal(model.w, torch.arange(4, 8.))
    assert model.w.requires_grad


OUTSIDE = {
    "absolute": ("{folder}/weights.bin", "absolute path"),
    "parent": ("../weights.bin", "leaves the model's folder"),
    "parent inside": ("deep/../../weights.bin", "leaves the model's folder"),
    "link": ("link.bin", "behind a symbolic link"),
    "linked folder": ("linked/weights.bin", "behind a symbolic link"),
    "device": ("/dev/zero", "absolute path"),
    "pipe": ("pipe", "no regular file"),
    "folder": ("deep", "no regular file"),
    "missing": ("nothing.bin", "cannot be read"),
    "nameless": ("", "names no file"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_places_that_are_not_read(tmp_path, case):
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    for place in (tmp_path, folder):
        (place / "weights.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to("weights.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    location, words = OUTSIDE[case]
    error = convert(folder, linear(external(location.format(folder=folder))), 2)
    assert words in error and "'w'" in error


@pytest.mark.parametrize("offset,length,words", [
    (60, 16, "ends beyond the file"),
    (2**63, 16, "ends beyond the file"),
    (2**64 - 8, 16, "ends beyond the file"),
    (-4, 16, "no number of bytes"),
    ("1e3", 16, "no number of bytes"),
    (2**70, 16, "no number of bytes"),
    (0, 12, "has 12 bytes, and the tensor 16"),
    (0, 2**64 - 1, "and the tensor 16"),
])
def test_offsets_out_of_range(tmp_path, offset, length, words):
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    tensor = external("weights.bin", offset, length)
    assert words in convert(tmp_path, linear(tensor), 2)


# ------------------------------------------------------------------- tensors

def raw(dims, size, dtype=TensorProto.FLOAT):
    return TensorProto(name="w", data_type=dtype, dims=dims, raw_data=bytes(size))


@pytest.mark.parametrize("tensor,words", [
    (raw([4], 12), "12 bytes for 4 elements"),
    (raw([-4], 16), "negative size"),
    (raw([2**40, 2**40], 16), "more bytes than can be counted"),
    (raw([2**62], 16), "more bytes than can be counted"),
    (TensorProto(name="w", data_type=1, dims=[2**40]), "0 values for"),
    (TensorProto(name="w", data_type=1, dims=[4], float_data=[1.0]),
     "1 values for 4 elements"),
    (raw([4], 16, TensorProto.STRING), "STRING, which is not read"),
    (raw([4], 16, 99), "type 99, which is not read"),
    (raw([4], 4, TensorProto.FLOAT8E4M3FN), "is not read"),
])
def test_tensors_that_do_not_fit(tmp_path, tensor, words):
    assert words in convert(tmp_path, linear(tensor), 2)


def test_an_operand_of_another_type(tmp_path):
    weight = numpy_helper.from_array(np.ones(4, np.float64), "w")
    assert "types or shapes" in convert(tmp_path, linear(weight), 2)


def test_names_that_are_there_twice(tmp_path):
    w = numpy_helper.from_array(np.ones(4, np.float32), "w")
    assert "two initializers 'w'" in convert(
        tmp_path, linear(initializers=[w, w]), 2)
    twice = [helper.make_node("Add", ["x", "w"], ["y"]),
             helper.make_node("Sub", ["x", "w"], ["y"])]
    assert "not valid ONNX" in convert(tmp_path, linear(nodes=twice), 2)


def test_a_value_that_nothing_makes(tmp_path):
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    assert "not valid ONNX" in convert(tmp_path, linear(nodes=nodes), 2)


@pytest.mark.parametrize("opset", [12, 29, -1])
def test_opsets_that_are_not_read(tmp_path, opset):
    assert "opsets 13 to 28 are read" in convert(tmp_path, linear(opset=opset), 2)


def test_damaged_files(tmp_path):
    whole = linear().SerializeToString()
    for cut in range(1, len(whole), 7):
        convert(tmp_path, whole[:cut], 2)


# ----------------------------------------------------------------- functions

def function(name, nodes):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], nodes, opsets)


OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]


def call(name, a="x", b="y"):
    return helper.make_node(name, [a], [b], domain="f")


def test_functions_are_inlined(tmp_path):
    twice = function("Twice", [call("Once", "a", "c"), call("Once", "c", "b")])
    once = function("Once", [helper.make_node("Relu", ["a"], ["b"])])
    model = convert(tmp_path, linear(nodes=[call("Twice")], opsets=OPSETS,
                                     functions=[twice, once]))
    assert model.code.count("torch.relu") == 2


def test_functions_that_call_themselves(tmp_path):
    own = function("Own", [call("Own", "a", "b")])
    assert "f::Own calls itself" in convert(
        tmp_path, linear(nodes=[call("Own")], opsets=OPSETS, functions=[own]), 2)
    one = function("One", [call("Two", "a", "b")])
    two = function("Two", [call("One", "a", "b")])
    assert "calls itself" in convert(
        tmp_path,
        linear(nodes=[call("One")], opsets=OPSETS, functions=[one, two]), 2)


def test_functions_that_grow_without_end(tmp_path):
    """Each calls the next twice: 2^40 nodes of forty functions."""
    functions = [function(f"F{i}", [call(f"F{i + 1}", "a", "c"),
                                    call(f"F{i + 1}", "c", "b")])
                 for i in range(40)]
    functions.append(function("F40", [helper.make_node("Relu", ["a"], ["b"])]))
    error = convert(tmp_path, linear(nodes=[call("F0")], opsets=OPSETS,
                                     functions=functions), 2)
    assert "more than 1000000 nodes" in error


def test_functions_in_a_long_row(tmp_path):
    functions = [function(f"F{i}", [call(f"F{i + 1}", "a", "b")])
                 for i in range(300)]
    functions.append(function("F300", [helper.make_node("Relu", ["a"], ["b"])]))
    error = convert(tmp_path, linear(nodes=[call("F0")], opsets=OPSETS,
                                     functions=functions), 2)
    assert "more than 200 deep" in error


# ------------------------------------------------------- what is not covered

def test_all_missing_operators_are_named(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["a"]),
             helper.make_node("MaxRoiPool", ["b4", "r"], ["p"], name="pool",
                              pooled_shape=[1, 1]),
             helper.make_node("Own", ["a"], ["c"], name="mine", domain="com.me"),
             helper.make_node("Own", ["c"], ["y"], domain="com.me")]
    graph = helper.make_graph(
        nodes, "net", [tensor_type("x", 1, 4), tensor_type("b4", 1, 1, 4, 4),
                       tensor_type("r", 1, 5)], [tensor_type("y", 1, 4)])
    model = helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.me", 1)])
    error = convert(tmp_path, model, 2)
    assert error.endswith("operators that are not covered: MaxRoiPool "
                          "(version 1) at 'pool'; com.me::Own at 'mine', 'y'\n")


def test_onnx_is_not_written_yet(tmp_path):
    error = convert(tmp_path, linear(), 2, "--emit=onnx")
    assert "--emit=onnx: ONNX is read, and not written yet" in error


def test_standard_input(tmp_path):
    target = tmp_path / "out.pt"
    subprocess.run([TOOL, "-", "-q", "-o", target], check=True,
                   input=linear().SerializeToString())
    assert torch.jit.load(str(target)).w.shape == (4,)


# ----------------------------------------------------------- training forms

def test_statistics_are_updated_as_pytorch_does(tmp_path):
    norm = torch.nn.BatchNorm1d(4, momentum=0.3, eps=1e-3)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    names = ["weight", "bias", "running_mean", "running_var"]
    initializers = [numpy_helper.from_array(
        getattr(norm, name).detach().numpy(), f"norm.{name}") for name in names]
    node = helper.make_node(
        "BatchNormalization", ["x", *(f"norm.{n}" for n in names)],
        ["y", "m", "v"], training_mode=1, momentum=0.7, epsilon=1e-3)
    model = convert(tmp_path, linear(nodes=[node], initializers=initializers))
    assert {n for n, _ in model.named_buffers()} == \
        {"norm.running_mean", "norm.running_var"}
    x = torch.randn(6, 4)
    for _ in range(3):
        torch.testing.assert_close(model(x), norm(x))
    torch.testing.assert_close(model.norm.running_mean, norm.running_mean)
    torch.testing.assert_close(model.norm.running_var, norm.running_var)
    torch.testing.assert_close(model.eval()(x), norm.eval()(x))


def test_dropout_follows_the_module(tmp_path):
    setting = [numpy_helper.from_array(np.array(0.25, np.float32), "ratio"),
               numpy_helper.from_array(np.array(True), "training")]
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    model = convert(tmp_path, linear(nodes=[node], initializers=setting))
    x = torch.randn(50, 4)
    torch.manual_seed(3)
    have = model(x)
    torch.manual_seed(3)
    assert torch.equal(have, torch.nn.functional.dropout(x, 0.25))
    assert torch.equal(model.eval()(x), x)


@pytest.mark.parametrize("name,path", [
    ("blocks.0.weight", "blocks.0.weight"), ("onnx::Add_12", "onnx__Add_12"),
    ("a/b c", "a_b_c"), ("class", "class_"), ("a..b", "a._.b"), ("0", "0"),
    ("forward", "forward_"), ("training", "training_"), ('q"\\', "q__"),
])
def test_names_of_parameters(tmp_path, name, path):
    weight = numpy_helper.from_array(np.ones(4, np.float32), name)
    nodes = [helper.make_node("Add", ["x", name], ["y"])]
    model = convert(tmp_path, linear(nodes=nodes, initializers=[weight]))
    assert list(model.state_dict()) == [path]
    assert torch.equal(model(torch.zeros(2, 4)), torch.ones(2, 4))


def test_buffers_by_name(tmp_path):
    model = convert(tmp_path, linear(), 0, "--buffer=w")
    assert [n for n, _ in model.named_buffers()] == ["w"]
    model = convert(tmp_path, linear(), 0, "--buffer=w*")
    assert not list(model.parameters())
    (tmp_path / "out.pt").unlink()
    assert "--buffer=v: there is no such initializer" in convert(
        tmp_path, linear(), 2, "--buffer=v")


# ------------------------------------------------------------- what is shown

FOREIGN = re.compile(r"\bonnx::|google::protobuf|onnx_torch")


@pytest.mark.parametrize("path", [
    TOOL, LIBRARY, LIBRARIES / "libinv_runtime_cuda.so"],
    ids=lambda path: path.name)
def test_no_name_of_onnx_or_protobuf_is_exported(path):
    if not path.exists():
        pytest.skip(f"no {path.name}")
    names = subprocess.run(["nm", "-DC", "--defined-only", path], check=True,
                           capture_output=True, text=True).stdout
    assert not FOREIGN.findall(names)


def test_messages_name_no_folder_of_the_build():
    """ONNX's assertions name the file that they are in."""
    assert b"onnx/inliner/inliner.cc" in TOOL.read_bytes()
    assert b"/onnx/inliner/inliner.cc" not in TOOL.read_bytes()


def test_beside_onnx_and_onnxruntime(tmp_path):
    """In one process, in either order, and all of them work."""
    model = tmp_path / "m.onnx"
    model.write_bytes(linear().SerializeToString())
    for order in ("onnx, onnxruntime, torch", "torch, onnxruntime, onnx"):
        script = (f"import {order}\n"
                  f"torch.ops.load_library({str(LIBRARY)!r})\n"
                  f"onnx.checker.check_model({str(model)!r}, full_check=True)\n"
                  f"onnxruntime.InferenceSession({str(model)!r})\n"
                  "x = torch.ones(2, requires_grad=True)\n"
                  "(x * 2).sum().backward()\nprint('done')\n")
        done = subprocess.run([sys.executable, "-c", script],
                              capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
