"""Steps in the bodies of loops and in branches: gradients at any number of
iterations against plain autograd, and the bytes that stay alive."""

import ctypes
import gc
import subprocess

import pytest
import torch

from compare import distance, gradients, rewrite
from conftest import LIBRARY, TOOL
from recurrent import (FOUND, NEAR, WIDTH, Couplings, Fixed, Gated, GatedHalves,
                       Joined, Leapfrog, Momentum, Nested, Verlet, While)

TRIPS = [0, 1, 2, 3, 10]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """archive(model, dtype): original and rewritten, loaded, and the remarks."""
    folder = tmp_path_factory.mktemp("loops")
    made = {}

    def get(model, dtype=torch.float64, *options):
        key = (model, dtype, options)
        if key not in made:
            torch.manual_seed(0)
            path = folder / f"{model.__name__}.{dtype}.{len(made)}.pt"
            torch.jit.script(model().to(dtype)).save(str(path))
            rewritten = path.with_suffix(".inv.pt")
            made[key] = (path, rewritten,
                         rewrite(path, rewritten, "--verify-each", *options))
        original, rewritten, remarks = made[key]
        return (torch.jit.load(str(original)), torch.jit.load(str(rewritten)),
                remarks)

    return get


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, WIDTH, generator=generator).to(dtype)


def compared(original, ours, trips, x, seed):
    return [gradients(Fixed(model, trips), [x], seed=seed)
            for model in (original, ours)]


def couplings(remarks):
    return sum(r["kind"] == "passed" and ("coupling" in r["message"] or
                                          "checkpoint" in r["message"])
               for r in remarks)


@pytest.mark.parametrize("model,steps", FOUND)
def test_the_steps_are_found(archive, model, steps):
    assert couplings(archive(model)[2]) == steps


@pytest.mark.parametrize("trips", TRIPS)
@pytest.mark.parametrize("model", [m for m, _ in FOUND] + NEAR)
def test_gradients_in_float64(archive, model, trips):
    original, ours, _ = archive(model)
    for seed in range(3):
        expected, actual = compared(original, ours, trips, batch(), seed)
        for name in expected:
            if name.startswith("output"):
                assert torch.equal(actual[name], expected[name])
        assert distance(actual, expected) <= 1e-12


@pytest.mark.parametrize("trips", TRIPS)
@pytest.mark.parametrize("model", [m for m, _ in FOUND])
def test_gradients_in_float32(archive, model, trips):
    original, ours, _ = archive(model, torch.float32)
    expected, actual = compared(original, ours, trips, batch(torch.float32), 1)
    assert torch.equal(actual["output 0"], expected["output 0"])
    assert distance(actual, expected) <= 5e-6


@pytest.mark.parametrize("model", [m for m, _ in FOUND])
def test_inlined_again_nothing_is_left(archive, model, tmp_path):
    original, ours, _ = archive(model)
    ours.save(str(tmp_path / "steps.pt"))
    subprocess.run([TOOL, tmp_path / "steps.pt", "-o", tmp_path / "plain.pt",
                    "-q", "--passes=inline-steps"], check=True)
    plain = torch.jit.load(str(tmp_path / "plain.pt"))
    assert "inv::" not in str(plain.inlined_graph)
    expected, actual = compared(original, plain, 3, batch(), 1)
    assert distance(actual, expected) <= 1e-13


@pytest.mark.parametrize("model", [m for m, _ in FOUND])
def test_a_second_run_changes_nothing(archive, model, tmp_path):
    _, ours, _ = archive(model)
    ours.save(str(tmp_path / "once.pt"))
    rewrite(tmp_path / "once.pt", tmp_path / "twice.pt")
    twice = torch.jit.load(str(tmp_path / "twice.pt"))
    assert twice.code == ours.code


@pytest.fixture(scope="module")
def allocated():
    """Bytes of CPU tensors made from now on."""
    library = ctypes.CDLL(str(LIBRARY))
    library["_ZN3inv17CountingAllocator7installEv"]()
    current = library["_ZN3inv17CountingAllocator7currentEv"]
    current.restype = ctypes.c_int64
    return current


def alive_after(model, trips, allocated):
    """Bytes that a call leaves until backward, its output aside."""
    x = batch().requires_grad_().clone()
    model(x, trips)
    torch.ops.inv.reset_stats()
    gc.collect()
    gc.disable()
    torch.manual_seed(1)
    before = allocated()
    output = model(x, trips)
    alive = allocated() - before
    gc.enable()
    outputs = output if isinstance(output, tuple) else [output]
    return alive - sum(t.untyped_storage().nbytes() for t in outputs)


@pytest.mark.parametrize("model", [Couplings, Joined, Leapfrog, Verlet, Nested,
                                   While, Gated, GatedHalves])
def test_the_same_bytes_whatever_the_number_of_iterations(archive, allocated,
                                                          model):
    original, ours, _ = archive(model)
    many = 20 if model is Nested else 1000
    few = alive_after(ours, 10, allocated)
    assert alive_after(ours, many, allocated) == few
    assert alive_after(original, many, allocated) > 10 * few


def test_ten_thousand_iterations(archive, allocated):
    _, ours, _ = archive(Leapfrog)
    few = alive_after(ours, 10, allocated)
    assert alive_after(ours, 10000, allocated) == few


def test_a_factor_below_one_keeps_states_where_errors_would_grow(archive,
                                                                 allocated):
    _, ours, _ = archive(Momentum, torch.float64, "--max-growth=1e300")
    few = alive_after(ours, 10, allocated)
    assert alive_after(ours, 300, allocated) == few
    original, careful, _ = archive(Momentum)
    assert alive_after(careful, 30, allocated) == few
    state = 4 * WIDTH * 8
    kept = (alive_after(careful, 300, allocated) - few) // state
    assert 0 < kept == torch.ops.inv.stats()["kept"]
    expected, actual = compared(original, careful, 300, batch(), 1)
    assert distance(actual, expected) <= 1e-11
