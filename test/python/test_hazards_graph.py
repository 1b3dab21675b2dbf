"""Rows of docs/hazards.md on rewritten archives in Python: what users do to tensors,
gradients, hooks and backward. Reference: plain autograd on the original, float64."""

import re

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.graph import (get_gradient_edge, save_on_cpu,
                                  saved_tensors_hooks)
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from compare import both, gradients, near, same, square
from nets import WIDTH, Block, Chain, Dropping, Model, Network, data

pytestmark = pytest.mark.usefixtures("hazard")


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lin = nn.Linear(width, width)
        self.register_buffer("table", torch.rand(width))

    def forward(self, x):
        return torch.tanh(self.lin(x)) * self.table


@pytest.mark.parametrize("change", ["mul_", "relu_", "zero_"])
def test_h02_output_changed_in_place_is_an_error_or_right(tmp_path, change):
    models = both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)

    def run(model):
        x = [torch.randn(5, WIDTH, requires_grad=True) for _ in range(2)]
        y = list(model(*x))
        getattr(y[1], change)(*([2] if change == "mul_" else []))
        return torch.autograd.grad(y[0].sum() + y[1].sum(), x)

    with pytest.raises(RuntimeError, match="modified by an inplace operation") as e:
        run(models[1])
    assert re.search(r"inv::coupling \(.*nets\.py:\d+.*\): its result number 0",
                     str(e.value))


def test_h03_weight_changed_is_an_error(pair):
    def change(model, name):
        loss = square(model(data()))
        with torch.no_grad():
            dict(model.named_parameters())[name].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace") as e:
            loss.backward()
        return e

    for name, _ in pair[0].named_parameters():
        # (Plain autograd has no need of a bias in backward.)
        if name.endswith("weight"):
            change(pair[0], name)
        e = change(pair[1], name)
        # chain.blocks.1.f.up.weight
        layer, kind = name.rsplit(".", 2)[1:]
        assert re.search(rf"inv::coupling \(.*nets\.py:\d+.*\), capture \d+ "
                         rf"\('{layer}_{kind}'\)", str(e.value)), name


def test_h03_a_buffer_that_a_step_reads_is_an_error(tmp_path):
    models = both(Model(lambda: Gated(WIDTH), 2), tmp_path, steps=4)
    for model in models:
        loss = square(model(data()))
        next(model.buffers()).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace") as e:
            loss.backward()
        del loss
    assert re.search(r"capture \d+ \('table'\)", str(e.value))


class Around(nn.Module):
    """Something before and after the chain that reads its input."""

    def __init__(self, how: str):
        super().__init__()
        self.chain = Chain(lambda: Network(WIDTH), 2)
        self.how = how

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        if self.how == "relu":
            x1, x2 = torch.relu(x1), torch.relu(x2)
        if self.how == "tanh":
            x1, x2 = torch.tanh(x1), torch.tanh(x2)
        if self.how == "exp":
            x1, x2 = torch.exp(x1), torch.exp(x2)
        if self.how == "sigmoid":
            x1, x2 = torch.sigmoid(x1), torch.sigmoid(x2)
        z = torch.zeros_like(x1)
        if self.how == "before":
            z = torch.exp(x1) * torch.tanh(x2)
        y1, y2 = self.chain(x1, x2)
        if self.how == "after":
            z = torch.sin(x1 + y1) * torch.exp(y2 * x2)
        if self.how == "after in place":
            x1 = x1 + 0
            x1 += y1
            z = torch.sin(x1)
        if self.how == "other":
            y1, y2 = torch.sin(x1), torch.cos(x2)
        return torch.cat([y1, y2, z], dim=1)


@pytest.mark.parametrize("how", ["before", "after", "after in place", "other",
                                 "relu", "tanh", "exp", "sigmoid"])
def test_h06_to_h09_readers_of_the_input(tmp_path, how):
    same(both(Around(how), tmp_path, steps=0), data())


@pytest.mark.parametrize("which", [[0], [1], [0, 3], [2, 5, 8], "all"])
def test_h10_inputs_of_backward(pair, which):
    results = []
    x = data()
    for model in pair:
        leaf = x.detach().clone().requires_grad_()
        leaves = [leaf, *model.parameters()]
        wanted = leaves if which == "all" else [leaves[i] for i in which]
        square(model(leaf)).backward(inputs=wanted)
        results.append([t.grad for t in leaves])
    near(results[1], results[0])
    assert [g is None for g in results[1]] == [g is None for g in results[0]]


def test_h10_gradient_edges(tmp_path):
    models = both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)
    base = [torch.randn(5, WIDTH) for _ in range(2)]
    results = []
    for model in models:
        x = [t.clone().requires_grad_() for t in base]
        middle = model(*x)
        edges = [get_gradient_edge(t) for t in middle]
        end = get_gradient_edge(model(*middle)[1])
        results.append(torch.autograd.grad(end, [*edges, *x],
                                           torch.ones(5, WIDTH)))
    near(results[1], results[0])


@pytest.mark.parametrize("how", ["forward over reverse", "reverse over forward"])
def test_h11_tangents_and_gradients(pair, how):
    value, tangent = data(), data()
    results = []
    for model in pair:
        x = value.clone().requires_grad_()
        with forward_ad.dual_level():
            if how == "forward over reverse":
                y = model(x)
                dual = forward_ad.make_dual(torch.ones_like(y), tangent)
                g, = torch.autograd.grad(y, x, dual)
                results.append(list(forward_ad.unpack_dual(g)))
            else:
                y = model(forward_ad.make_dual(x, tangent))
                results.append(torch.autograd.grad(
                    square(forward_ad.unpack_dual(y).tangent),
                    [x, *model.parameters()], allow_unused=True))
    near(results[1], results[0])


def test_h11_double_backward(pair):
    results = []
    x = data()
    for model in pair:
        leaf = x.detach().clone().requires_grad_()
        leaves = [leaf, *model.parameters()]
        g = torch.autograd.grad(square(model(leaf)), leaves, create_graph=True)
        penalty = sum((t ** 3).sum() for t in g)
        results.append(torch.autograd.grad(penalty, leaves, allow_unused=True))
    near(results[1], results[0], 1e-10)


def test_h12_several_backward_calls(pair):
    x = data()
    results = []
    for model in pair:
        leaf = x.detach().clone().requires_grad_()
        y = model(leaf)
        y[:, 0].sum().backward(retain_graph=True)
        square(y).backward(retain_graph=True)
        square(y).backward()
        with pytest.raises(RuntimeError, match="a second time"):
            square(y).backward()
        results.append([leaf.grad, *(p.grad for p in model.parameters())])
    near(results[1], results[0])


def test_h13_parts_without_grad(tmp_path):
    models = both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)
    for needs in [(True, False), (False, True), (False, False)]:
        for used in [(0,), (1,), (0, 1)]:
            torch.manual_seed(2)
            base = [torch.randn(5, WIDTH) for _ in range(2)]
            results = []
            for model in models:
                x = [t.clone().requires_grad_(n) for t, n in zip(base, needs)]
                y = model(*x)
                wanted = [*model.parameters(), *(t for t in x if t.requires_grad)]
                results.append(torch.autograd.grad(
                    sum(square(y[i]) for i in used), wanted, allow_unused=True))
            near(results[1], results[0])


def test_requires_grad_of_every_output(tmp_path):
    models = both(Chain(lambda: Network(WIDTH), 1), tmp_path, steps=2)
    for weights in (False, True):
        for needs in [(False, False), (True, False), (False, True), (True, True)]:
            flags = []
            for model in models:
                for p in model.parameters():
                    p.requires_grad_(weights)
                x = [torch.randn(5, WIDTH, requires_grad=n) for n in needs]
                flags.append([y.requires_grad for y in model(*x)])
            assert flags[1] == flags[0]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        network = Network(WIDTH)
        self.block = Block(network, network)
        self.again = Block(network, Network(WIDTH))

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        for _ in range(2):
            x1, x2 = self.block(x1, x2)
        x1, x2 = self.again(x1, x2)
        return torch.cat([x1, x2], 1) * self.block.f.up.weight.sum()


def test_h17_shared_modules_and_weights(tmp_path):
    models = both(Shared(), tmp_path)
    same(models, data())
    for model in models:
        calls = []
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda p: calls.append(id(p)))
        square(model(data())).backward()
        assert len(calls) == len(set(calls)) == len(list(model.parameters()))


def test_h18_hooks(pair):
    x = data()
    results = []
    for model in pair:
        leaf = x.detach().clone().requires_grad_()
        calls = []

        def hook(g):
            calls.append(g)
            return g * 2

        handles = [p.register_hook(hook) for p in model.parameters()]
        y = model(leaf)
        y.register_hook(hook)
        square(y).backward()
        assert len(calls) == len(handles) + 1
        results.append([leaf.grad, *(p.grad for p in model.parameters())])
    near(results[1], results[0])


def test_h18_gradients_of_the_streams_that_are_returned(tmp_path):
    # y1 is read by the last step and returned: its gradient is that of both.
    models = both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)
    x = [torch.randn(5, WIDTH) for _ in range(2)]
    results = []
    for model in models:
        y = model(*(t.clone().requires_grad_() for t in x))
        results.append(torch.autograd.grad(square(y[0]) + square(y[1]), y))
    near(results[1], results[0])


class Raising(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lin = nn.Linear(width, width)

    def forward(self, x):
        if bool(x.sum() > 1e6):
            raise ValueError("too large")
        return torch.tanh(self.lin(x))


def test_h20_exception_in_a_conditioner(tmp_path):
    models = both(Model(lambda: Raising(WIDTH), 2), tmp_path, steps=0)
    for model in models:
        with pytest.raises(Exception, match="too large"):
            model(data() + 1e6)
    same(models, data())


def test_h28_backward_in_a_hook(pair):
    x = data()
    results = []
    for model in pair:
        leaf = x.detach().clone().requires_grad_()
        inner = x.detach().clone().requires_grad_()
        y = model(leaf)

        def hook(g):
            with torch.enable_grad():
                h, = torch.autograd.grad(square(model(inner)), inner)
            return g * h.sum()

        y.register_hook(hook)
        results.append(torch.autograd.grad(square(y), leaf))
    near(results[1], results[0])


class Force(nn.Module):
    """Asks for gradients inside of its own graph."""

    def __init__(self):
        super().__init__()
        self.chain = Chain(lambda: Network(WIDTH), 2)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        y1, y2 = self.chain(x1, x2)
        energy = (y1 * y2).sum()
        force = torch.autograd.grad([energy], [x], create_graph=True)[0]
        assert force is not None
        return energy + (force * force).sum()


def test_h29_gradients_inside_of_the_model(tmp_path):
    same(both(Force(), tmp_path, steps=0), data(), loss=lambda y: y,
         bound=1e-10)


def test_h29_forces(pair):
    x = data()
    results = []
    for model in pair:
        leaf = x.detach().clone().requires_grad_()
        energy = square(model(leaf))
        force, = torch.autograd.grad(energy, leaf, create_graph=True)
        results.append(torch.autograd.grad((energy + (force ** 2).sum()),
                                           list(model.parameters()),
                                           allow_unused=True))
    near(results[1], results[0], 1e-10)


def test_h30_frozen_weights(pair):
    for model in pair:
        for p in model.parameters():
            p.requires_grad_(False)
    x = data().requires_grad_()
    results = [torch.autograd.grad(square(model(x)), [x]) for model in pair]
    near(results[1], results[0])


def test_h23_disjoint_backward_calls(tmp_path):
    models = both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)
    base = [torch.randn(5, WIDTH) for _ in range(2)]
    results = []
    for model in models:
        x = [t.clone().requires_grad_() for t in base]
        m = model(*x)
        y = model(*m)
        # The upper half first, then the lower with what arrived at m[1].
        upper, = torch.autograd.grad(square(y[0]), m[1], retain_graph=True)
        results.append([
            upper,
            *torch.autograd.grad(m[1], x, upper, retain_graph=True),
            *torch.autograd.grad(m[0].exp().sum(), x, retain_graph=True),
            *torch.autograd.grad(y[1].sum(), x)])
    near(results[1], results[0])


@pytest.mark.parametrize("before", ["invert", "recompute", "store"])
@pytest.mark.parametrize("after", ["invert", "recompute", "store"])
def test_h32_modes(pair, before, after):
    original, model = pair
    steps = [m for n, m in model.named_children() if n.startswith("inv_step_")]
    x = data()
    expected = list(gradients(original, x).values())
    leaf = x.detach().clone().requires_grad_()
    for i, step in enumerate(steps):
        step.mode = before if i % 2 == 0 else after
    y = model(leaf)
    for step in steps:
        step.mode = after
    near([y.detach(), *torch.autograd.grad(square(y), [leaf, *model.parameters()])],
         expected)


def test_h33_saved_tensor_hooks(pair):
    x = data()
    _, *expected = gradients(pair[0], x).values()
    packed, unpacked = [], []

    def pack(t):
        packed.append(t.data_ptr())
        return t

    def unpack(t):
        unpacked.append(t.data_ptr())
        return t

    with saved_tensors_hooks(pack, unpack):
        leaf = x.detach().clone().requires_grad_()
        y = pair[1](leaf)
        saved = len(packed)
    result = torch.autograd.grad(square(y), [leaf, *pair[1].parameters()])
    near(result, expected)
    # The captures, each once each way, and nothing from inside of the steps.
    assert len(packed) == saved == len(unpacked)
    parameters = {p.data_ptr() for p in pair[1].parameters()}
    assert set(packed) <= parameters
    assert len(packed) == len(list(pair[1].parameters()))


def test_h33_save_on_cpu(pair):
    x = data()
    expected = gradients(pair[0], x)
    with save_on_cpu():
        near(gradients(pair[1], x), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_h33_inside_checkpoint(tmp_path, reentrant):
    models = both(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    x = data()
    expected = list(gradients(models[0], x).values())
    torch.manual_seed(1)
    leaf = x.detach().clone().requires_grad_()
    # An early stop is an exception, which no TorchScript model lets through, the
    # original no more than the rewritten one.
    with set_checkpoint_early_stop(False):
        y = checkpoint(models[1], leaf, use_reentrant=reentrant)
        square(y).backward()
    near([y.detach(), leaf.grad, *(p.grad for p in models[1].parameters())],
         expected)


def test_anomaly_mode(pair):
    with torch.autograd.set_detect_anomaly(True):
        same(pair, data())
