"""Every architecture of the field, saved scripted and traced: the steps that
inv-opt finds, and the gradients and training of the rewritten form against
plain autograd on the original (architectures.py has the table)."""

import pytest
import torch
import torch.nn.functional as F

from architectures import ARCHITECTURES, rewrite
from conftest import TOOL

CASES = [pytest.param(a, form, id=f"{a.name}-{form}")
         for a in ARCHITECTURES for form in a.forms]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """archives(architecture, form, dtype): the original's path, the rewritten's
    path, and the remarks."""
    folder = tmp_path_factory.mktemp("architectures")
    made = {}

    def get(architecture, form, dtype="float32"):
        stem = f"{architecture.name}.{dtype}"
        if (stem, form) not in made:
            if not (folder / f"{stem}.{form}.pt").exists():
                architecture.save(folder, stem, *architecture.test, dtype)
            original = folder / f"{stem}.{form}.pt"
            rewritten = folder / f"{stem}.{form}.inv.pt"
            remarks = rewrite(TOOL, original, rewritten,
                              require=architecture.found_in(form))
            made[stem, form] = original, rewritten, remarks
        return made[stem, form]

    return get


def load(archives, architecture, form, dtype):
    original, rewritten, _ = archives(architecture, form, dtype)
    return torch.jit.load(str(original)), torch.jit.load(str(rewritten))


def batch(dtype):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(16, 1, 8, 8, generator=generator,
                         dtype=getattr(torch, dtype))
    return images, torch.randint(10, (16,), generator=generator)


def evaluate(model, images, labels, seed):
    """All outputs, and the loss: every output takes part in it."""
    torch.manual_seed(seed)
    outputs = model(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = F.cross_entropy(outputs[0], labels)
    for output in outputs[1:]:
        loss = loss + output.square().mean()
    return outputs, loss


def gradients(model, images, labels, seed):
    outputs, loss = evaluate(model, images, labels, seed)
    names, parameters = zip(*model.named_parameters())
    return outputs, dict(zip(names, torch.autograd.grad(loss, parameters)))


def distance(actual, expected):
    """The worst tensor: largest difference over largest element."""
    assert actual.keys() == expected.keys()
    return max(((actual[n] - g).abs().max() / g.abs().max()).item()
               for n, g in expected.items() if g.abs().max() > 0)


@pytest.mark.parametrize("architecture,form", CASES)
def test_the_steps_are_found(archives, architecture, form):
    _, _, remarks = archives(architecture, form)
    there = architecture.there(architecture.test[0], form)
    found = architecture.count(remarks)
    # More than there are would be a mistake of the table, or of the analysis.
    assert architecture.found_in(form) <= found <= there


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture,form", CASES)
def test_forward_is_bit_equal_and_gradients_agree(archives, architecture, form,
                                                  dtype):
    original, rewritten = load(archives, architecture, form, dtype)
    images, labels = batch(dtype)
    for seed in range(2):
        expected, reference = gradients(original, images, labels, seed)
        actual, ours = gradients(rewritten, images, labels, seed)
        assert len(actual) == len(expected) == architecture.outputs
        assert all(map(torch.equal, actual, expected))
        assert distance(ours, reference) <= getattr(architecture, dtype)
    for ours, buffer in zip(rewritten.buffers(), original.buffers(),
                            strict=True):
        assert torch.equal(ours, buffer)


@pytest.mark.parametrize("architecture,form", CASES)
def test_training_follows_the_original(archives, architecture, form):
    images, labels = batch("float64")
    losses = []
    for model in load(archives, architecture, form, "float64"):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        losses.append([])
        for seed in range(5):
            _, loss = evaluate(model, images, labels, seed)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[1][-1] < losses[1][0]
