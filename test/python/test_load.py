"""Rewritten archives in Python: they load, train, save and copy like any."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from compare import distance, gradients
from conftest import FORMS, LIBRARY, MODELS

BOTH = [(name, form) for name in MODELS for form in FORMS]
# Relative; about what rounding does to the original itself. The linear layers
# and leaky ReLUs widen a rounding error a little.
BOUNDS = {"float32": 5e-6, "float64": 1e-12}


def batch(dtype="float32"):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(16, 1, 8, 8, generator=generator,
                         dtype=getattr(torch, dtype))
    return images, torch.randint(10, (16,), generator=generator)


def step(model, images, labels, seed=3):
    """Output and gradients of one step; the same seed, the same dropout."""
    found = gradients(model, (), lambda y: F.cross_entropy(y, labels), seed,
                      [images])
    return found.pop("output 0"), found


def count_steps(model):
    return sum(n.startswith("inv_step_") for n, _ in model.named_children())


def load_both(archives, name, form, dtype="float32"):
    original, rewritten = archives(name, form, dtype)
    return torch.jit.load(original), torch.jit.load(rewritten)


@pytest.mark.parametrize("name,form", BOTH)
def test_all_steps_are_found(archives, name, form):
    original, rewritten = load_both(archives, name, form)
    assert count_steps(original) == 0
    assert count_steps(rewritten) == MODELS[name][1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name,form", BOTH)
def test_forward_is_bit_equal_and_gradients_agree(archives, name, form, dtype):
    original, rewritten = load_both(archives, name, form, dtype)
    images, labels = batch(dtype)
    for call in range(2):
        expected, reference = step(original, images, labels, seed=call)
        actual, ours = step(rewritten, images, labels, seed=call)
        assert torch.equal(actual, expected)
        assert distance(ours, reference) <= BOUNDS[dtype]


@pytest.mark.parametrize("name,form", BOTH)
def test_state_dict_is_the_original_s(archives, name, form):
    original, rewritten = load_both(archives, name, form)
    expected, actual = original.state_dict(), rewritten.state_dict()
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[n], expected[n]) for n in expected)
    # And it takes weights that were saved from the original.
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(1.01)
    rewritten.load_state_dict(original.state_dict())
    images, _ = batch()
    torch.manual_seed(0)
    expected = original(images)
    torch.manual_seed(0)
    assert torch.equal(rewritten(images), expected)


@pytest.mark.parametrize("name,form", BOTH)
def test_training_follows_the_original(archives, name, form):
    images, labels = batch()
    losses = []
    for model in load_both(archives, name, form):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        losses.append([])
        for i in range(10):
            torch.manual_seed(i)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1][0] == losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
    assert losses[1][-1] < losses[1][0]


def test_running_statistics_move_once(archives):
    original, rewritten = load_both(archives, "revnet", "scripted")
    images, labels = batch()
    for model in (original, rewritten):
        step(model, images, labels)
    expected = dict(original.named_buffers())
    for name, buffer in rewritten.named_buffers():
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("name,form", BOTH)
@pytest.mark.parametrize("how", ["save and load", "deepcopy"])
def test_a_copy_trains_the_same(archives, tmp_path, name, form, how):
    _, path = archives(name, form)
    model = torch.jit.load(path)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    else:
        model.save(str(tmp_path / "again.pt"))
        other = torch.jit.load(str(tmp_path / "again.pt"))
    assert count_steps(other) == count_steps(model)
    images, labels = batch()
    expected, reference = step(model, images, labels)
    actual, ours = step(other, images, labels)
    assert torch.equal(actual, expected)
    for parameter, gradient in reference.items():
        assert torch.equal(ours[parameter], gradient), parameter
    # Its parameters are its own.
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert next(model.parameters()).abs().max() > 0


def test_eval_mode_of_a_scripted_model(archives):
    original, rewritten = load_both(archives, "revnet", "scripted")
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(rewritten.eval()(images), original.eval()(images))
        # Train mode again: batch statistics.
        assert torch.equal(rewritten.train()(images), original.train()(images))


def test_without_the_library_the_message_names_it(archives):
    _, path = archives("revmlp", "scripted")
    run = subprocess.run(
        [sys.executable, "-c", f"import torch; torch.jit.load({path!r})"],
        capture_output=True, text=True)
    assert run.returncode != 0
    assert "libinv_runtime" in run.stderr


def test_with_the_library_a_fresh_process_loads_it(archives):
    _, path = archives("revmlp", "scripted")
    run = subprocess.run(
        [sys.executable, "-c", "import torch; "
         f"torch.ops.load_library({str(LIBRARY)!r}); torch.jit.load({path!r})"],
        capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
