"""Scripted models whose code decides at run time, or seems to: lists that are
built in place, branches on attributes, loops over groups. The rewritten model
does in every call what the original does, or says why it cannot."""

import subprocess
from typing import Dict, List, Optional, Tuple

import pytest
import torch
from torch import nn

from conftest import TOOL


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(torch.sigmoid(self.up(x)))


class Groups(nn.Module):
    """Group additive coupling, with everything in lists."""

    def __init__(self):
        super().__init__()
        self.groups = 3
        self.stem = nn.Linear(6, 18)
        self.nets = nn.ModuleList([Net() for _ in range(3)])

    def forward(self, x):
        xs = torch.chunk(torch.sin(self.stem(x)), self.groups, dim=1)
        total = xs[1]
        for i in range(2, self.groups):
            total = total + xs[i]
        ys: List[torch.Tensor] = []
        for i, net in enumerate(self.nets):
            total = xs[i] + net(total)
            ys.append(total)
        parts: Dict[str, torch.Tensor] = {}
        parts["last"] = ys[-1]
        ys[2] = parts["last"].sin()
        ys[-2] = ys[1].cos()
        return torch.cat(ys, dim=1), parts["last"]


class Odd(nn.Module):
    """The coupling hides behind an attribute."""

    def __init__(self, odd=True):
        super().__init__()
        self.odd = odd
        self.rate = 0.5
        self.stem = nn.Linear(6, 6)
        self.f = Net()
        self.g = Net()

    def forward(self, x):
        x1, x2 = torch.sin(x), torch.cos(self.stem(x))
        if self.odd:
            x1 = x1 + self.f(x2)
            x2 = x2 + self.g(x1)
        else:
            x2 = x2 + self.f(x1)
            x1 = x1 + self.g(x2)
        return torch.sin(x1), torch.sin(x2) * self.rate


class Modes(nn.Module):
    """train() and eval() change what F is; so does the number of calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.stem = nn.Linear(6, 6)
        self.f = Net()
        self.g = Net()

    def forward(self, x):
        self.calls += 1
        x1, x2 = torch.sin(x), torch.cos(self.stem(x))
        f = self.f(x2)
        if self.training:
            f = 2.0 * f
        y1 = x1 + f
        y2 = x2 + self.g(y1)
        if self.calls > 2:
            y2 = torch.sin(y2)
        return torch.sin(y1), torch.sin(y2) * float(self.calls)


class Caller(nn.Module):
    """A list that the caller hands in grows; another one is handed out."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.f = Net()
        self.g = Net()

    def forward(self, x, seen: List[torch.Tensor]
                ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        x1, x2 = torch.sin(x), torch.cos(self.stem(x))
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        seen.append(y2.detach())
        made = [torch.sin(y1)]
        made.append(torch.sin(y2))
        made.extend([made[0] * made[1]])
        return torch.cat(made + seen[:1], dim=1), made


class Biased(nn.Module):
    """F takes an optional argument; G does not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(6))
        self.g = Net()

    def forward(self, x, bias: Optional[torch.Tensor] = None):
        x1, x2 = torch.sin(x), torch.cos(x)
        f = torch.sigmoid(nn.functional.linear(x2, self.weight, bias))
        y1 = x1 + f
        y2 = x2 + self.g(y1)
        return torch.sin(y1), torch.sin(y2)


@pytest.fixture
def rewritten(tmp_path):
    def make(net, steps):
        torch.manual_seed(0)
        torch.jit.script(net.double()).save(str(tmp_path / "a.pt"))
        subprocess.run([TOOL, tmp_path / "a.pt", "-o", tmp_path / "b.pt", "-q",
                        "--verify-each", f"--require-steps={steps}"],
                       check=True)
        return (torch.jit.load(str(tmp_path / "a.pt")),
                torch.jit.load(str(tmp_path / "b.pt")))
    return make


def tensors(results):
    if isinstance(results, torch.Tensor):
        return [results]
    values = results.values() if isinstance(results, dict) else results
    return [t for value in values for t in tensors(value)]


def evaluate(net, x, *others):
    x = x.clone().requires_grad_()
    results = tensors(net(x, *others))
    loss = sum((y * y.detach().cos()).sum() for y in results if y.requires_grad)
    return results, torch.autograd.grad(loss, [x, *net.parameters()],
                                        allow_unused=True)


def assert_same(original, ours, x, *others):
    (y, g), (y2, g2) = (evaluate(net, x, *others) for net in (original, ours))
    assert len(y) == len(y2) and all(map(torch.equal, y, y2))
    for want, got in zip(g, g2):
        assert (want is None) == (got is None)
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def batch(rows=5):
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 6, generator=generator, dtype=torch.float64)


def test_lists_and_loops_over_groups(rewritten):
    original, ours = rewritten(Groups(), steps=3)
    for rows in (5, 1, 8):
        assert_same(original, ours, batch(rows))


@pytest.mark.parametrize("odd", [True, False])
def test_a_flag_decides_as_it_was_saved(rewritten, odd):
    original, ours = rewritten(Odd(odd), steps=2)
    assert_same(original, ours, batch())


def test_a_flag_that_decides_cannot_be_changed_without_a_word(rewritten):
    original, ours = rewritten(Odd(), steps=2)
    original.odd = ours.odd = False
    evaluate(original, batch())
    with pytest.raises(torch.jit.Error, match="odd decides which code"):
        evaluate(ours, batch())
    original.odd = ours.odd = True
    assert_same(original, ours, batch())


def test_a_number_that_decides_nothing_can_be_changed(rewritten):
    original, ours = rewritten(Odd(), steps=2)
    original.rate = ours.rate = 3.0
    assert_same(original, ours, batch())


def test_training_and_what_the_model_writes_are_not_decided(rewritten):
    original, ours = rewritten(Modes(), steps=2)
    for training in (True, False, True, False):
        original.train(training)
        ours.train(training)
        assert_same(original, ours, batch())
    assert original.calls == ours.calls == 4
    original.calls = ours.calls = 0
    assert_same(original, ours, batch())


def test_the_callers_list_grows_as_before(rewritten):
    original, ours = rewritten(Caller(), steps=1)
    assert_same(original, ours, batch(), [batch()])
    assert_same(original, ours, batch(), [])


def test_an_optional_argument(rewritten):
    original, ours = rewritten(Biased(), steps=2)
    assert_same(original, ours, batch())
    bias = torch.full((6,), 0.3, dtype=torch.float64, requires_grad=True)
    gradients = []
    for net in (original, ours):
        y1, y2 = net(batch(), bias)
        gradients += torch.autograd.grad((y1 * y2).sum(), bias)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
