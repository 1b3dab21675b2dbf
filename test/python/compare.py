"""Rewriting a model and comparing it with the original: what every file here
does. Values and gradients are dictionaries of named tensors."""

import json
import pathlib
import subprocess

import torch

from conftest import TOOL


def rewrite(original, rewritten, *options, tool=TOOL, steps=0):
    """Runs inv-opt on an archive; it fails if it forms fewer steps. Returns its
    remarks."""
    remarks = pathlib.Path(f"{rewritten}.remarks.json")
    subprocess.run([tool, original, "-o", rewritten, "-q",
                    f"--require-steps={steps}", f"--remarks-output={remarks}",
                    *options], check=True)
    return json.loads(remarks.read_text())["remarks"]


def both(module, folder, *options, steps=1):
    """The scripted module and its rewritten form, both loaded from archives."""
    original, rewritten = folder / "model.pt", folder / "model.inv.pt"
    torch.jit.script(module).save(str(original))
    rewrite(original, rewritten, *options, steps=steps)
    return torch.jit.load(str(original)), torch.jit.load(str(rewritten))


def tensors(value):
    """Those of a tensor, or of a tuple of them."""
    return [value] if isinstance(value, torch.Tensor) else list(value)


def square(y):
    """A loss of every output."""
    return sum((t * t.sin()).sum() for t in tensors(y))


def gradients(model, inputs=(), loss=square, seed=1, constant=()):
    """Outputs, then gradients of the inputs and of all parameters. `constant`:
    further inputs, of which none is asked for."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors(inputs)]
    names, parameters = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            names.append(name)
            parameters.append(parameter)
    torch.manual_seed(seed)
    y = model(*leaves, *tensors(constant))
    found = torch.autograd.grad(loss(y), leaves + parameters, allow_unused=True)
    result = {f"output {i}": t.detach().clone()
              for i, t in enumerate(tensors(y))}
    result |= dict(zip([f"input {i}" for i in range(len(leaves))] + names, found))
    return result


def named(values):
    """A list, by number."""
    return values if isinstance(values, dict) else dict(enumerate(values))


def distance(actual, expected):
    """The worst tensor: largest difference over largest element. A gradient
    that is not there is one of zeros."""
    actual, expected = named(actual), named(expected)
    assert actual.keys() == expected.keys()
    worst = 0.0
    for name, e in expected.items():
        a = actual[name]
        if a is None or e is None:
            assert a is e or not (a if e is None else e).any(), name
            continue
        assert a.shape == e.shape, name
        if e.numel() == 0 or torch.equal(a, e):
            continue
        size, difference = e.abs().max().item(), (a - e).abs().max().item()
        if not difference <= worst * size:  # NaN is far
            worst = difference / size if size > 0 else float("inf")
    return worst


def near(actual, expected, bound=1e-12):
    found = distance(actual, expected)
    assert found <= bound


def same(models, inputs, loss=square, bound=1e-12):
    """Bit-equal outputs, gradients within the bound."""
    expected = gradients(models[0], inputs, loss)
    actual = gradients(models[1], inputs, loss)
    for name, value in expected.items():
        if name.startswith("output "):
            assert torch.equal(actual[name], value), name
    near(actual, expected, bound)
