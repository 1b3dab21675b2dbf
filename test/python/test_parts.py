"""States that are known in pieces: masks, slices and indices. What the tool took
for granted is looked at again by the step, and where it no longer holds the step
keeps its input: gradients stay those of plain autograd."""

import pytest
import torch
from torch import nn

from compare import both, gradients, near


class Net(nn.Module):
    """Two masked couplings in float64."""

    def __init__(self):
        super().__init__()
        self.register_buffer("m", torch.tensor([1., 0., 1., 0., 1., 0.]))
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x):
        x = torch.sin(x)
        kept = self.m * x
        x = kept + (1 - self.m) * (x + torch.tanh(self.first(kept)))
        kept = (1 - self.m) * x
        x = kept + self.m * (x + torch.tanh(self.second(kept)))
        return torch.sin(x)


class Permuted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([2, 0, 3, 1, 5, 4]))
        self.w = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        x1, x2 = torch.chunk(torch.sin(x), 2, 0)
        y = x1 + torch.tanh(x2 * self.w)
        return torch.sin(y[:, self.order]), torch.sin(x2)


class Strided(nn.Module):
    """Takes any number of columns."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        x1, x2 = torch.chunk(torch.sin(x), 2, 0)
        y = x1 + torch.tanh(x2 * self.w)
        a, b, c = y[:, ::3], y[:, 1::3], y[:, 2::3]
        return a.sin(), b.cos() * self.w, torch.sin(c), torch.sin(x2)


@pytest.fixture
def rewritten(tmp_path):
    def make(net):
        torch.manual_seed(0)
        return both(net.double(), tmp_path, "--force-steps", steps=2)
    return make


def loss(y):
    results = [y] if isinstance(y, torch.Tensor) else y
    return sum((y * y.detach().cos()).sum() for y in results)


def compare(original, ours, x):
    """How often a step kept its input."""
    torch.ops.inv.reset_stats()
    near(gradients(ours, x, loss), gradients(original, x, loss), 1e-11)
    return dict(torch.ops.inv.stats())["kept"]


def test_a_masked_coupling_trains_without_its_states(rewritten):
    assert compare(*rewritten(Net()), torch.randn(4, 6).double()) == 0


@pytest.mark.parametrize("mask", [
    [1., 0.5, 1., 0., 1., 0.], [2., 0., 2., 0., 2., 0.],
    [float("nan"), 0., 1., 0., 1., 0.]], ids=["half", "twos", "nan"])
def test_a_mask_that_is_none_any_more_is_noticed(rewritten, mask):
    original, ours = rewritten(Net())
    for net in (original, ours):
        net.m.copy_(torch.tensor(mask))
    x = torch.randn(4, 6).double()
    torch.ops.inv.reset_stats()
    expected, actual = (gradients(net, x, loss) for net in (original, ours))
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-11, atol=1e-12,
                                   equal_nan=True)
    assert dict(torch.ops.inv.stats())["kept"] > 0


def test_another_mask_of_zeros_and_ones_is_as_good(rewritten):
    original, ours = rewritten(Net())
    for net in (original, ours):
        net.m.copy_(torch.tensor([0., 0., 1., 1., 1., 0.]))
    assert compare(original, ours, torch.randn(4, 6).double()) == 0


def test_a_mask_changed_between_forward_and_backward_is_an_error(rewritten):
    _, ours = rewritten(Net())
    y = ours(torch.randn(4, 6).double().requires_grad_())
    ours.m.copy_(torch.tensor([0., 0., 1., 1., 1., 0.]))
    with pytest.raises(RuntimeError, match="modified|changed|version"):
        y.sum().backward()


def test_a_permutation_trains_without_its_states(rewritten):
    assert compare(*rewritten(Permuted()), torch.randn(4, 6).double()) == 0


def test_indices_that_leave_places_out_are_noticed(rewritten):
    original, ours = rewritten(Permuted())
    # The first permutation takes six columns out of seven.
    assert compare(original, ours, torch.randn(4, 7).double()) > 0


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 9])
def test_strided_slices_give_back_every_size(rewritten, columns):
    original, ours = rewritten(Strided())
    assert compare(original, ours, torch.randn(4, columns).double()) == 0
