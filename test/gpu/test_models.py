"""Rewritten example models, made by `scripts/gpu-check --prepare`, on a GPU."""

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.gpu
NAMES = ["revnet", "revvit", "revmlp"]
KINDS = ["traced", "scripted"]


def load(path):
    return torch.jit.load(str(path), map_location="cuda").double().train()


def gradients(model, images, labels):
    torch.manual_seed(3)
    with torch.jit.optimized_execution(False):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_same_loss_and_gradients(model_folder, name, kind):
    rewritten = model_folder / f"{name}.{kind}.inv.pt"
    if not rewritten.exists():
        pytest.skip(f"no {rewritten} (scripts/gpu-check --prepare makes it)")
    images = torch.rand(16, 1, 8, 8, dtype=torch.float64, device="cuda")
    labels = torch.arange(16, device="cuda") % 10
    torch.use_deterministic_algorithms(True, warn_only=True)
    loss_a, grads_a = gradients(load(model_folder / f"{name}.{kind}.pt"),
                                images, labels)
    torch.ops.inv.reset_stats()
    loss_b, grads_b = gradients(load(rewritten), images, labels)
    assert sum(torch.ops.inv.stats().values()) > 0, "no step ran"
    assert torch.equal(loss_a, loss_b)
    assert grads_a.keys() == grads_b.keys()
    for key, a in grads_a.items():
        error = (a - grads_b[key]).abs().max() / a.abs().max().clamp_min(1e-30)
        assert error <= 1e-10, key
