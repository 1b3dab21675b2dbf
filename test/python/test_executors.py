"""TorchScript's profiling executor: what it rewrites around the steps, from the
second call on, changes neither their gradients nor how often they run."""

import pytest
import torch
import torch.nn.functional as F

from compare import distance, gradients
from conftest import FORMS, MODELS

BOTH = [(name, form) for name in MODELS for form in FORMS]
CALLS = 4
FACTOR = 2  # of the original's own distance to float64
# Steps with a conditioner, for each block: of Glow the coupling, and the
# ActNorm, of which exp(logs) is run again.
COUPLINGS = {"revnet": 2, "revvit": 2, "revmlp": 2, "invlinear": 0,
             "realnvp": 1, "glow": 2}


@pytest.fixture(params=["optimised", "plain"])
def executor(request):
    torch._C._set_graph_executor_optimize(request.param == "optimised")
    yield request.param
    torch._C._set_graph_executor_optimize(False)


def batch(call):
    generator = torch.Generator().manual_seed(call)
    return (torch.randn(16, 1, 8, 8, generator=generator),
            torch.randint(10, (16,), generator=generator))


def found(model, images, labels):
    """Gradients of the parameters, in float64."""
    values = gradients(model, (), lambda y: F.cross_entropy(y, labels), 3,
                       [images])
    return {n: g.double() for n, g in values.items() if n != "output 0"}


@pytest.mark.parametrize("name,form", BOTH)
def test_gradients_are_as_near_to_float64_as_the_original_s(
        archives, executor, name, form):
    paths = archives(name, form)
    original, rewritten = map(torch.jit.load, paths)
    for call in range(CALLS):
        images, labels = batch(call)
        exact = torch.jit.load(paths[0]).double()
        for buffer, now in zip(exact.buffers(), original.buffers()):
            buffer.copy_(now)
        reference = found(exact, images.double(), labels)
        torch.ops.inv.reset_stats()
        own = distance(found(original, images, labels), reference)
        ours = distance(found(rewritten, images, labels), reference)
        assert ours <= FACTOR * own + 1e-7, f"call {call}"


@pytest.mark.parametrize("name,form", BOTH)
def test_every_call_runs_each_conditioner_twice(archives, executor, name, form):
    model = torch.jit.load(archives(name, form)[1])
    counts = []
    for call in range(CALLS):
        torch.ops.inv.reset_stats()
        found(model, *batch(call))
        stats = torch.ops.inv.stats()
        counts.append((stats["conditioners"], stats["functions"],
                       stats["inverses"], stats["pulls"], stats["kept"]))
    depth = int(MODELS[name][0][1])
    assert {count[0] for count in counts} == {2 * COUPLINGS[name] * depth}
    assert len(set(counts)) == 1
    assert counts[0][3:] == (0, 0)
