"""Rows of docs/hazards.md on a GPU, on steps written by hand. Reference: plain
autograd on the same tensors, there."""

import contextlib
import threading

import pytest
import torch

from steps import (Affine, Chain, Dropout, Mlp, Norm, Relu, Sort, gradients,
                   loss_of)

KINDS = [Mlp, Relu, Dropout, Sort, Norm, Affine]


@pytest.fixture(autouse=True)
def nothing_left():
    torch.manual_seed(0)
    yield
    stats = torch.ops.inv.stats()
    assert stats["live_nodes"] == stats["live_records"] == stats["live_slots"] == 0


def data(device, dtype=torch.float64, rows=6):
    x = [torch.randn(rows, 4, device=device, dtype=dtype) for _ in range(2)]
    x[1][:, 1] = 0  # which a ReLU must see again
    return x


def near(actual, expected, bound=1e-10):
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == e.dtype
        assert (a - e).abs().max() <= bound * e.abs().max().clamp_min(1e-30), i


def both(kind, device, depth=4, dtype=torch.float64, bound=1e-10):
    chains = [Chain(kind, depth, device=device, dtype=dtype) for _ in range(2)]
    x = data(device, dtype)
    results = []
    for chain, plain in zip(chains, (True, False)):
        torch.manual_seed(1)
        results.append(gradients(chain, plain, x))
    for a, e in zip(results[1][:2], results[0][:2]):
        assert torch.equal(a, e)
    near(results[1], results[0], bound)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_plain_autograd(kind, device):
    both(kind, device)


@pytest.mark.parametrize("kind", KINDS)
def test_h01_float32(kind, device):
    both(kind, device, dtype=torch.float32, bound=1e-4)


def test_h04_the_program_s_own_numbers_are_undisturbed(device):
    losses = []
    for plain in (True, False):
        chain = Chain(Dropout, 4, device=device)
        torch.manual_seed(2)
        losses.append([])
        for _ in range(4):
            x = data(device)
            loss = loss_of(chain.plain(*x) if plain else chain(*x))
            torch.autograd.grad(loss, chain.parameters())
            losses[-1].append(loss.item())
    assert losses[1] == losses[0]


def expect_plain_gradients(chain, device):
    """Drawing the same numbers, on whichever generators the chain draws."""
    x = data(device)
    results = []
    for plain in (True, False):
        torch.manual_seed(3)
        leaves = [t.clone().requires_grad_() for t in x]
        y = chain.plain(*leaves) if plain else chain(*leaves)
        results.append(torch.autograd.grad(loss_of(y), leaves))
    near(results[1], results[0])


class BothGenerators(Dropout):
    """Draws on the CPU too, where none of its tensors is."""

    @torch.jit.export
    def conditioner(self, z: torch.Tensor, w: torch.Tensor,
                    b: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.dropout(torch.tanh(z), 0.3, True)
        return h * torch.rand([4], dtype=z.dtype).to(z.device)


class Elsewhere(Dropout):
    """Draws on the GPU, where none of its tensors is."""

    @torch.jit.export
    def conditioner(self, z: torch.Tensor, w: torch.Tensor,
                    b: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.dropout(torch.tanh(z).to("cuda"), 0.3, True)
        return h.to("cpu")


def test_h04_both_generators(device):
    chain = Chain(BothGenerators, 3, device=device)
    expect_plain_gradients(chain, device)


@pytest.mark.gpu
def test_h04_a_generator_of_another_device():
    torch.rand(1, device="cuda")
    chain = Chain(Elsewhere, 3, device="cpu")
    expect_plain_gradients(chain, "cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Mlp, Relu, Dropout])
def test_h16_autocast(kind, dtype, device):
    chain = Chain(kind, 4, device=device, dtype=torch.float32)
    x = data(device, torch.float32)
    results = []
    for plain in (True, False):
        torch.manual_seed(1)
        leaves = [t.clone().requires_grad_() for t in x]
        with torch.autocast(device, dtype=dtype):
            y = chain.plain(*leaves) if plain else chain(*leaves)
        g = torch.autograd.grad(loss_of(y), [*leaves, *chain.parameters()])
        assert all(t.dtype == torch.float32 for t in g)
        results.append([*(t.detach() for t in y), *g])
    assert torch.equal(results[1][0], results[0][0])
    assert torch.equal(results[1][1], results[0][1])
    near(results[1], results[0], 5e-2 if dtype == torch.bfloat16 else 1e-2)


@pytest.mark.gpu
def test_h16_with_a_gradient_scaler():
    results = []
    for plain in (True, False):
        chain = Chain(Mlp, 4, device="cuda", dtype=torch.float32)
        optimizer = torch.optim.SGD(chain.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        torch.manual_seed(4)
        for _ in range(5):
            x = data("cuda", torch.float32)
            with torch.autocast("cuda", dtype=torch.float16):
                y = chain.plain(*x) if plain else chain(*x)
                loss = loss_of(y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append([p.detach() for p in chain.parameters()])
    near(results[1], results[0], 2e-2)


def test_h18_an_error_in_a_hook(device):
    """On a GPU it is raised on autograd's thread of that device."""
    chain = Chain(Mlp, 3, device=device)
    x = [t.requires_grad_() for t in data(device)]
    y = chain(*x)

    def hook(g):
        raise ValueError("planted")

    x[0].register_hook(hook)
    with pytest.raises(ValueError, match="planted"):
        loss_of(y).backward()
    del y
    torch.ones(1, device=device, requires_grad=True).sum().backward()
    x = data(device)
    near(gradients(chain, False, x), gradients(chain, True, x))


def test_h19_threads(device):
    chain = Chain(Mlp, 4, device=device)
    x = data(device)
    expected = gradients(chain, True, x)
    results = []

    def work():
        stream = (torch.cuda.stream(torch.cuda.Stream())
                  if device == "cuda" else contextlib.nullcontext())
        with stream:
            for _ in range(5):
                found = gradients(chain, False, x)
                if device == "cuda":
                    torch.cuda.current_stream().synchronize()
                results.append(found)

    if device == "cuda":
        torch.cuda.synchronize()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    for result in results:
        near(result, expected)


@pytest.mark.gpu
def test_h20_no_memory_left():
    """Whatever runs out of memory, the error reaches the caller, nothing is left
    alive and the next step is right."""
    chain = Chain(Mlp, 4, width=4, device="cuda", dtype=torch.float32)
    x = data("cuda", torch.float32, rows=1 << 20)
    expected = gradients(chain, True, x)
    near(gradients(chain, False, x), expected, 1e-3)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    base = torch.cuda.memory_allocated()
    failures = 0
    for extra in range(16, 400, 16):  # MiB
        torch.cuda.set_per_process_memory_fraction(
            (base + (extra << 20)) / total)
        try:
            gradients(chain, False, x)
        except torch.cuda.OutOfMemoryError:
            failures += 1
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
        torch.ones(1, device="cuda", requires_grad=True).sum().backward()
        assert torch.ops.inv.stats()["live_nodes"] == 0
    assert failures > 0
    near(gradients(chain, False, x), expected, 1e-3)


@pytest.mark.gpu
def test_h22_bytes():
    chain = Chain(Mlp, 8, device="cuda", dtype=torch.float32)
    x = data("cuda", torch.float32, rows=1024)
    leaves = [t.clone().requires_grad_() for t in x]
    for t in [*leaves, *chain.parameters()]:
        t.grad = torch.zeros_like(t)
    at_steps = []
    for own in chain.captures:
        own[0].register_hook(
            lambda g: at_steps.append(torch.cuda.memory_allocated()))
    for _ in range(3):
        loss_of(chain(*leaves)).backward()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        loss_of(chain(*leaves)).backward()
    assert torch.cuda.memory_allocated() == before
    # The last step's buffers are freed on the way to the one before.
    last = at_steps[-8:]
    assert len(set(last[2:])) == 1, last


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Mlp, Relu, Norm, Sort])
def test_h25_the_host_does_not_wait(kind):
    chain = Chain(kind, 4, device="cuda")
    x = [t.requires_grad_() for t in data("cuda")]
    chain(*x)  # what is made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(loss_of(chain(*x)), chain.parameters())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(chain, x, optimizer):
    """A graph of one training step on x, and the loss that it leaves."""
    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(chain(*x))
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = step()
    return graph, loss


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Mlp, Relu, Sort, Norm, Affine])
def test_h25_a_training_step_in_a_graph(kind):
    plain, ours = (Chain(kind, 4, device="cuda") for _ in range(2))
    batches = [data("cuda") for _ in range(4)]
    fixed = [t.clone() for t in batches[0]]
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.01)
    graph, loss = captured(ours, fixed, optimizer)
    reference = torch.optim.SGD(plain.parameters(), lr=0.01)

    def plain_step(x):
        reference.zero_grad()
        value = loss_of(plain.plain(*x))
        value.backward()
        reference.step()
        return value

    for _ in range(3):
        plain_step(batches[0])  # as the capture warmed up
    for x in batches:
        for own, value in zip(fixed, x):
            own.copy_(value)
        graph.replay()
        expected = plain_step(x)
        near([loss], [expected])
    near([p.detach() for p in ours.parameters()],
         [p.detach() for p in plain.parameters()])
    near(ours.buffers(), plain.buffers())
    del graph, loss


@pytest.mark.gpu
def test_h25_dropout_in_a_graph():
    """Left to plain autograd there. Each replay has masks of its own, and the
    gradient of each follows its own mask."""
    step = Chain(Dropout, 1, device="cuda").step
    z = torch.full((1000,), 0.5, device="cuda", dtype=torch.float64)
    w, b = (torch.eye(1, device="cuda", dtype=torch.float64),
            torch.zeros(1, device="cuda", dtype=torch.float64))

    def run():
        x = z[:, None].clone().requires_grad_()
        y = torch.ops.inv.coupling(step, [torch.zeros_like(x)], [x], [w, b],
                                   None)[0]
        return y, torch.autograd.grad(y.sum(), x)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, g = run()
    masks = []
    for _ in range(3):
        graph.replay()
        masks.append((y != 0).clone())
        assert torch.equal(g != 0, y != 0)
    assert not torch.equal(masks[0], masks[1])
    del graph


@pytest.mark.gpu
def test_h25_streams():
    """Forward on streams of its own, each step on another; backward from the
    default one. Delays, so that what does not wait reads too early."""
    chain = Chain(Relu, 6, width=4, device="cuda")
    x = data("cuda", rows=1 << 14)
    expected = gradients(chain, True, x)
    streams = [torch.cuda.Stream() for _ in range(2)]
    for _ in range(10):
        leaves = [t.detach().clone().requires_grad_() for t in x]
        a, b = leaves
        read = a
        for i, own in enumerate(chain.captures):
            streams[i % 2].wait_stream(streams[1 - i % 2])
            streams[i % 2].wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(streams[i % 2]):
                torch.cuda._sleep(200_000)
                out = torch.ops.inv.coupling(chain.step, [a], [b], own, None)
                read, a, b = b, out[1], out[0]
                for t in (read, a, b):
                    t.record_stream(streams[1 - i % 2])
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)
        found = torch.autograd.grad(loss_of([read, b]),
                                    [*leaves, *chain.parameters()])
        near([read.detach(), b.detach(), *found], expected)


def test_h25_deterministic_algorithms(device):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        both(Mlp, device)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("pinned", [False, True])
def test_h33_save_on_cpu(pinned, device):
    if pinned and device == "cpu":
        pytest.skip("pinned memory is a GPU's")
    chain = Chain(Mlp, 4, device=device)
    x = data(device)
    expected = gradients(chain, True, x)
    with torch.autograd.graph.save_on_cpu(pin_memory=pinned):
        near(gradients(chain, False, x), expected)


def test_h34_exact_zeros_are_noted(device):
    chain = Chain(Relu, 6, device=device)
    x = [torch.zeros(8, 4, device=device, dtype=torch.float64) for _ in range(2)]
    x[0][:, 0] = torch.randn(8, device=device, dtype=torch.float64)
    near(gradients(chain, False, x), gradients(chain, True, x))
