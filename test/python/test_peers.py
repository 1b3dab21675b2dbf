"""Cases of PyTorch's own tests of checkpoints and of autograd's threads that no
other file here has; docs/testing.md lists all of them. Reference: plain autograd
on the original, float64."""

import threading
import traceback
from typing import Dict

import pytest
import torch
from torch import nn

from compare import both, gradients, near, same, square
from nets import WIDTH, Chain, Dropping, Model, Network, data

pytestmark = pytest.mark.usefixtures("hazard")


def in_threads(count, body):
    """The messages of their errors (errors themselves would keep the graph)."""
    errors = []

    def run():
        try:
            body()
        except Exception as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("needs_grad", [True, False])
def test_one_loss_of_many_calls(pair, needs_grad):
    x = torch.randn(100, 1, 2 * WIDTH)
    results = []
    for model in pair:
        leaf = x.clone().requires_grad_(needs_grad)
        mean = torch.stack([model(row) for row in leaf]).square().mean()
        wanted = [*model.parameters(), *([leaf] if needs_grad else [])]
        results.append(torch.autograd.grad(mean, wanted))
    near(results[1], results[0])


def test_numbers_that_are_not_to_be_drawn_again(tmp_path):
    _, model = both(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    for name, step in model.named_children():
        if name.startswith("inv_step_"):
            step.preserve_rng = False
    torch.ops.inv.reset_stats()
    square(model(data())).backward()  # other masks in backward, and no error
    assert torch.ops.inv.stats()["rng_saved"] == 0


def test_a_default_device_of_the_forward_alone(pair):
    x = data()
    expected = gradients(pair[0], x)
    leaf = x.clone().requires_grad_()
    with torch.device("meta"):
        y = pair[1](leaf)
    near(torch.autograd.grad(square(y), [leaf, *pair[1].parameters()]),
         list(expected.values())[1:])


class Undecided(nn.Module):
    def __init__(self, width, block: bool):
        super().__init__()
        self.seen = nn.Linear(width, width)
        self.unseen = nn.Linear(width, width)
        self.block = block

    def forward(self, x):
        if self.block:
            with torch.no_grad():
                h = torch.tanh(self.unseen(x))
        else:
            torch.set_grad_enabled(False)
            h = torch.tanh(self.unseen(x))
            torch.set_grad_enabled(True)
        return torch.tanh(self.seen(x)) * h


@pytest.mark.parametrize("block", [True, False])
def test_no_grad_inside_of_a_network(tmp_path, block):
    models = both(Model(lambda: Undecided(WIDTH, block), 2), tmp_path, steps=0)
    same(models, data())


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.chain = Chain(lambda: Network(WIDTH), 2)

    def forward(self, inputs: Dict[str, torch.Tensor], scale: float = 1.0):
        x1, x2 = torch.chunk(inputs["x"], 2, dim=1)
        y1, y2 = self.chain(x1, x2)
        return {"y": torch.cat([y1, y2], dim=1) * scale, "x": inputs["x"]}


def test_dictionaries_and_keywords(tmp_path):
    results = []
    x = data()
    for model in both(ByName(), tmp_path, steps=0):
        leaf = x.clone().requires_grad_()
        y = model({"x": leaf}, scale=0.5)
        results.append(torch.autograd.grad(square([y["y"], y["x"]]),
                                           [leaf, *model.parameters()]))
    near(results[1], results[0])


def test_data_parallel(pair):
    x = data()
    expected = gradients(pair[0], x)
    found = gradients(nn.DataParallel(pair[1]), x)
    near(list(found.values()), list(expected.values()))


def third(model, x):
    """Derivatives of derivatives of derivatives."""
    leaf = x.clone().requires_grad_()
    value = square(model(leaf))
    for _ in range(2):
        g, = torch.autograd.grad(value, leaf, create_graph=True)
        value = g.pow(3).sum()
    return torch.autograd.grad(value, [leaf, *model.parameters()],
                               allow_unused=True)


def test_third_derivatives(tmp_path):
    models = both(Model(lambda: Network(WIDTH), 1), tmp_path, steps=2)
    x = data(rows=2)
    near(third(models[1], x), third(models[0], x), 1e-9)


def test_a_hook_on_a_step_s_node(tmp_path):
    _, model = both(Chain(lambda: Network(WIDTH), 1), tmp_path, steps=2)
    x = [torch.randn(5, WIDTH, requires_grad=True) for _ in range(2)]
    calls = []
    y = model(*x)
    y[1].grad_fn.register_hook(lambda *grads: calls.append("after"))
    y[1].grad_fn.register_prehook(lambda grads: calls.append("before"))
    square(y).backward()
    assert calls == ["before", "after"]


def test_backward_again_in_a_node_s_hook(tmp_path):
    """Over the part of the graph below the hook."""
    results = []
    base = [torch.randn(5, WIDTH) for _ in range(2)]
    for model in both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4):
        x = [t.clone().requires_grad_() for t in base]
        middle = model(*x)
        end = model(*middle)
        again = square(middle)
        end[1].grad_fn.register_hook(
            lambda *grads: again.backward(retain_graph=True))
        square(end).backward(retain_graph=True)
        results.append([t.grad for t in [*x, *model.parameters()]])
    near(results[1], results[0])


@pytest.mark.parametrize("threads", [1, 10])
def test_threads_that_accumulate_into_the_same_leaves(pair, threads):
    x = data()
    expected = gradients(pair[0], x)
    leaf = x.clone().requires_grad_()
    assert not in_threads(threads,
                          lambda: square(pair[1](leaf)).backward())
    near([t.grad / threads for t in [leaf, *pair[1].parameters()]],
         list(expected.values())[1:], 1e-11)


@pytest.mark.parametrize("retain", [False, True])
def test_threads_that_share_a_part_of_the_graph(pair, retain):
    leaf = data().requires_grad_()
    middle = pair[1](leaf)
    errors = in_threads(
        5, lambda: square(middle * 2).backward(retain_graph=retain))
    if retain:
        assert not errors
        found = [leaf.grad, *(p.grad for p in pair[1].parameters())]
        expected = gradients(pair[0], leaf, lambda y: 5 * square(y * 2))
        near(found, list(expected.values())[1:], 1e-11)
    else:
        assert len(errors) < 5
        for error in errors:
            assert "Specify retain_graph=True" in error


@torch.jit.script
def one_part(middle, x):
    y = middle + middle ** 2
    return torch.autograd.grad([y.sum()], [x], retain_graph=True)


@torch.jit.script
def parts(middle, x):
    future = torch.jit.fork(one_part, middle, x)
    here = one_part(middle, x)
    return here, torch.jit.wait(future)


def test_forked_parts_that_share_a_part_of_the_graph(pair):
    x = data()
    found = []
    for model in pair:
        leaf = x.clone().requires_grad_()
        found.append([g[0] for g in parts(model(leaf), leaf)])
    near(found[1], found[0])
    near([found[1][0]], [found[1][1]])


@pytest.mark.parametrize("mode", ["all", "any"])
def test_hooks_of_several_tensors(pair, mode):
    leaf = data().requires_grad_()
    y = pair[1](leaf)
    calls = []
    handle = torch.autograd.graph.register_multi_grad_hook(
        [leaf, y, *pair[1].parameters()], calls.append, mode=mode)
    assert not in_threads(5, lambda: square(y).backward(retain_graph=True))
    assert len(calls) == 5
    handle.remove()  # else the graph never dies, the original's neither


def test_the_traceback_of_an_error_in_a_hook(pair):
    y = pair[1](data())

    def hook(g):
        raise ValueError("something")

    y.register_hook(hook)
    with pytest.raises(ValueError) as caught:
        square(y).backward()
    assert 'raise ValueError("something")' in "".join(
        traceback.format_tb(caught.value.__traceback__))


def test_without_threads_of_autograd(pair):
    with torch.autograd.set_multithreading_enabled(False):
        same(pair, data())


def test_retained_gradients_of_states(tmp_path):
    results = []
    base = [torch.randn(5, WIDTH) for _ in range(2)]
    for model in both(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4):
        states = [t.clone().requires_grad_() * 1 for t in base]
        states += model(*states)
        for t in states:
            t.retain_grad()
        square(states[2:]).backward()
        results.append([t.grad for t in states])
    near(results[1], results[0])


@pytest.mark.parametrize("shared", [False, True])
def test_an_optimizer_that_steps_in_backward(tmp_path, shared):
    """It changes each weight as soon as its gradient is complete."""
    network = Network(WIDTH)
    make = (lambda: network) if shared else (lambda: Network(WIDTH))
    results = []
    x = data()
    for model in both(Model(make, 3), tmp_path, steps=2):
        for p in model.parameters():
            optimizer = torch.optim.SGD([p], lr=0.01)

            def step(p, optimizer=optimizer):
                optimizer.step()
                optimizer.zero_grad()

            p.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            square(model(x)).backward()
        results.append([p.detach() for p in model.parameters()])
    near(results[1], results[0])
