"""The architectures of examples/models by way of ONNX: exported by PyTorch in
training form, imported and rewritten by inv-opt. The steps are those found in
TorchScript, and 20 steps of training are the original module's."""

import copy
import runpy
import subprocess
import sys
import warnings

import onnx
import pytest
import torch
import torch.nn.functional as F

from architectures import ARCHITECTURES, MODELS
from conftest import TOOL
from compare import distance, rewrite, tensors

# What PyTorch 2.11's exporter refuses (aten::diag, aten::linalg_slogdet).
NOT_EXPORTED = {"glow_multiscale", "glow_multiscale, plain"}
# What is refused here, and with what words.
REFUSED = {
    "scaled_couplings": "SplitToSequence",
    "scaled_couplings, 0.5": "SplitToSequence",
    "realnvp_masked, index": "unknown rank",
}
# Where other steps are found than in the archive, and how many. A file has no
# `inverse` beside a layer, and masks in another spelling.
FOUND = {"invlinear": 0, "residual_flow": 0, "realnvp_masked": 0}
# Of float64 models whose file computes some things in float32 (Cast nodes that
# the exporter writes around comparisons and scales).
SINGLE_INSIDE = {"revvit": 1e-8, "residual_flow": 1e-6}
BOUNDS = {"float32": 1e-5, "float64": 1e-10}
STEPS = 20


def module_of(architecture, dtype):
    """The module that the example's script would save."""
    caught = {}

    def save(name, build, args, forms=None):
        torch.set_default_dtype(getattr(torch, args.dtype))
        torch.manual_seed(args.seed)
        caught["module"] = build(args).train()

    argv, path = sys.argv, list(sys.path)
    default = torch.get_default_dtype()
    sys.path.insert(0, str(MODELS))
    import common
    kept, common.save = common.save, save
    depth, width = architecture.test
    sys.argv = [architecture.script, "--depth", str(depth), "--width",
                str(width), "--dtype", dtype, *architecture.options]
    try:
        runpy.run_path(str(MODELS / f"{architecture.script or architecture.name}"
                                    ".py"), run_name="__main__")
    finally:
        sys.argv, sys.path[:], common.save = argv, path, kept
        torch.set_default_dtype(default)
    return caught["module"]


def export(module, path, dtype):
    """By the older exporter, with a batch of any size; the statistics that the
    run for it moved are put back."""
    state = {k: v.clone() for k, v in module.state_dict().items()}
    images = torch.rand(3, 1, 8, 8, dtype=getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images,), str(path), dynamo=False,
                          training=torch.onnx.TrainingMode.TRAINING,
                          do_constant_folding=False, opset_version=17,
                          input_names=["images"],
                          dynamic_axes={"images": {0: "batch"}})
    module.load_state_dict(state)
    model = onnx.load(str(path))
    return {i.name for i in model.graph.initializer}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """imported(architecture, dtype): the module, the archive, the remarks."""
    folder = tmp_path_factory.mktemp("models")
    made = {}

    def get(architecture, dtype):
        key = architecture.name, dtype
        if key not in made:
            module = module_of(architecture, dtype)
            source = folder / f"{architecture.name}.{dtype}.onnx"
            target = source.with_suffix(".pt")
            names = export(module, source, dtype)
            buffers = [f"--buffer={name}" for name, b in module.named_buffers()
                       if b.is_floating_point() and name in names]
            made[key] = module, target, rewrite(source, target, *buffers)
        return made[key]

    return get


CASES = [pytest.param(a, id=a.name) for a in ARCHITECTURES
         if a.name not in NOT_EXPORTED | set(REFUSED)]


@pytest.mark.parametrize("name", sorted(NOT_EXPORTED))
def test_what_the_exporter_refuses(tmp_path, name):
    """So that the list above stays true."""
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError):
        export(module_of(architecture, "float32"), tmp_path / "m.onnx", "float32")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused(tmp_path, name):
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    export(module_of(architecture, "float32"), tmp_path / "m.onnx", "float32")
    done = subprocess.run([TOOL, tmp_path / "m.onnx", "-o", tmp_path / "m.pt"],
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert REFUSED[name] in done.stderr
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.parametrize("architecture", CASES)
def test_the_steps_are_those_of_torchscript(imported, architecture):
    module, target, remarks = imported(architecture, "float32")
    expected = architecture.found_in("traced")  # a file has no loops left
    assert architecture.count(remarks) == FOUND.get(architecture.name, expected)


@pytest.mark.parametrize("architecture", CASES)
def test_parameters_have_their_names(imported, architecture):
    module, target, _ = imported(architecture, "float32")
    model = torch.jit.load(str(target))
    expected = {n: p.shape for n, p in module.named_parameters()}
    assert {n: p.shape for n, p in model.named_parameters()} == expected


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("architecture", CASES)
def test_training_is_that_of_the_module(imported, architecture, dtype):
    module, target, _ = imported(architecture, dtype)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(16, 1, 8, 8, generator=generator,
                         dtype=getattr(torch, dtype))
    labels = torch.randint(10, (16,), generator=generator)
    losses, gradients, buffers = [], [], []
    bound = max(BOUNDS[dtype], getattr(architecture, dtype))
    if dtype == "float64":
        bound = max(bound, SINGLE_INSIDE.get(architecture.name, 0))
    original, rewritten = copy.deepcopy(module), torch.jit.load(str(target))
    # The exporter runs the model, so its statistics are not the module's; its
    # parameters are.
    start = rewritten.state_dict()
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, start[name])
    original.load_state_dict(start, strict=False)
    for model in (original, rewritten):
        names, parameters = zip(*model.named_parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.02)
        losses.append([])
        for step in range(STEPS):
            torch.manual_seed(step)
            first, *others = tensors(model(images))
            loss = sum((t.square().mean() for t in others),
                       F.cross_entropy(first, labels))
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                gradients.append({n: p.grad.clone() for n, p in
                                  zip(names, parameters) if p.grad is not None})
            optimizer.step()
            losses[-1].append(loss.item())
        buffers.append(dict(model.named_buffers()))
    assert losses[1] == pytest.approx(losses[0], rel=bound)
    assert distance(gradients[1], gradients[0]) <= bound
    for name, buffer in buffers[1].items():
        if buffer.is_floating_point() and name in buffers[0]:
            torch.testing.assert_close(buffer, buffers[0][name],
                                       rtol=bound, atol=bound)
