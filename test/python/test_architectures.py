"""Every architecture of the field, saved scripted and traced: the steps that
inv-opt finds, and the gradients and training of the rewritten form against
plain autograd on the original (architectures.py has the table)."""

import pytest
import torch
import torch.nn.functional as F

from architectures import ARCHITECTURES
from compare import distance, gradients, rewrite, tensors

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
            remarks = rewrite(original, rewritten,
                              steps=architecture.found_in(form))
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


def loss_with(labels):
    """Every output takes part in it."""
    def loss(y):
        first, *others = tensors(y)
        return sum((t.square().mean() for t in others),
                   F.cross_entropy(first, labels))
    return loss


@pytest.mark.parametrize("architecture,form", CASES)
def test_the_steps_are_found(archives, architecture, form):
    _, _, remarks = archives(architecture, form)
    there = architecture.there(architecture.test[0], form)
    found = architecture.count(remarks)
    # More than there are would be a mistake of the table, or of the analysis.
    assert architecture.found_in(form) <= found <= there


@pytest.mark.parametrize("name", ["realnvp", "gin", "midpoint", "revnet"])
def test_depth_hides_no_step(tmp_path, name):
    architecture = next(a for a in ARCHITECTURES if a.name == name)
    depth, width = 40, architecture.test[1]
    architecture.save(tmp_path, name, depth, width, "float32")
    there = architecture.there(depth, "traced")
    remarks = rewrite(tmp_path / f"{name}.traced.pt", tmp_path / "rewritten.pt",
                      steps=there)
    assert architecture.count(remarks) == there


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture,form", CASES)
def test_forward_is_bit_equal_and_gradients_agree(archives, architecture, form,
                                                  dtype):
    original, rewritten = load(archives, architecture, form, dtype)
    images, labels = batch(dtype)
    for seed in range(2):
        expected, actual = (
            gradients(model, (), loss_with(labels), seed, [images])
            for model in (original, rewritten))
        outputs = [name for name in expected if name.startswith("output ")]
        assert len(outputs) == architecture.outputs
        assert all(torch.equal(actual[n], expected[n]) for n in outputs)
        assert distance(actual, expected) <= getattr(architecture, dtype)
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
            torch.manual_seed(seed)
            loss = loss_with(labels)(model(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[1][-1] < losses[1][0]
