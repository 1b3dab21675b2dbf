"""Rows of docs/hazards.md on rewritten archives in Python: values, dtypes, random
numbers, layouts, rounding. Reference: plain autograd on the original, float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compare import both, distance, gradients, near, same, square
from nets import WIDTH, Chain, Dropping, Model, Network, data

pytestmark = pytest.mark.usefixtures("hazard")


def test_h01_clean_chain(pair):
    same(pair, data())


def test_h04_dropout(tmp_path):
    models = both(Model(lambda: Dropping(WIDTH), 3), tmp_path, steps=6)
    same(models, data())
    losses = []
    for model in models:
        torch.manual_seed(3)
        losses.append([])
        for _ in range(4):
            loss = square(model(data()))
            loss.backward()
            losses[-1].append(loss.item())
    assert losses[1] == losses[0]


@pytest.mark.parametrize("mode,bound", [("invert", 1e-11), ("store", 0)])
def test_h04_training_runs_stay_equal(tmp_path, mode, bound):
    """Seeded once: the batches come from the generator that the masks come from,
    so that one number too many would make all others different."""
    models = both(Model(lambda: Dropping(WIDTH), 3), tmp_path, steps=6)
    losses = []
    for model in models:
        for name, step in model.named_children():
            if name.startswith("inv_step_"):
                step.mode = mode
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        torch.manual_seed(3)
        losses.append([])
        for _ in range(20):
            loss = square(model(data()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert len(set(losses[0])) == 20
    for ours, plain in zip(losses[1], losses[0]):
        assert abs(ours - plain) <= bound * abs(plain)


class Normed(nn.Module):
    def __init__(self, width, momentum):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, momentum=momentum)
        self.lin = nn.Linear(width, width)

    def forward(self, x):
        return torch.tanh(self.lin(self.norm(x)))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_h05_batch_norm_statistics_move_once(tmp_path, momentum):
    models = both(Model(lambda: Normed(WIDTH, momentum), 2), tmp_path, steps=4)
    for _ in range(3):
        same(models, data(), bound=1e-11)
        for a, e in zip(models[1].buffers(), models[0].buffers()):
            assert torch.equal(a, e)


def test_h14_no_grad_inference_eval(pair):
    x = data()
    before = x.detach().clone()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(pair[1](x), pair[0](x))
    assert torch.equal(x, before)
    for model in pair:
        model.eval()
    same(pair, x)


@pytest.mark.parametrize("make", [
    lambda: torch.randn(10, 8)[::2], lambda: torch.randn(8, 5).t(),
    lambda: torch.randn(5, 16)[:, 4:12], lambda: torch.randn(1, 8).expand(5, 8),
    lambda: torch.randn(1, 8), lambda: torch.randn(0, 8),
    lambda: torch.randn(30).as_strided((5, 8), (4, 1))])
def test_h15_layouts_of_the_input(pair, make):
    base = make()
    results = []
    for model in pair:
        x = base.detach().requires_grad_()
        results.append(torch.autograd.grad(square(model(x)),
                                           [x, *model.parameters()]))
    near(results[1], results[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_h16_autocast(tmp_path, dtype):
    torch.set_default_dtype(torch.float32)
    models = both(Model(lambda: Network(WIDTH), 3), tmp_path, steps=6)
    x = torch.randn(5, 2 * WIDTH)
    results = []
    for model in models:
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            y = model(leaf)
        results.append([y.detach(), *torch.autograd.grad(
            square(y.float()), [leaf, *model.parameters()])])
    assert torch.equal(results[1][0], results[0][0])
    assert all(g.dtype == torch.float32 for g in results[1])
    near(results[1], results[0], 3e-2 if dtype == torch.bfloat16 else 4e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_h21_nan_and_infinity(pair, bad):
    x = data()
    x[1, 2] = bad
    expected, actual = gradients(pair[0], x), gradients(pair[1], x)
    for name, e in expected.items():
        assert not actual[name][~e.isfinite()].isfinite().any(), name


def test_h25_deterministic_algorithms(pair):
    torch.use_deterministic_algorithms(True)
    try:
        same(pair, data())
    finally:
        torch.use_deterministic_algorithms(False)


def test_h26_depth(tmp_path):
    errors = {}
    for depth in (2, 32):
        folder = tmp_path / str(depth)
        folder.mkdir()
        models = both(Model(lambda: Network(WIDTH), depth), folder)
        x = data()
        errors[depth] = distance(gradients(models[1], x),
                                 gradients(models[0], x))
    assert errors[32] <= 1e-11, errors


class Small(nn.Module):
    """y1 = 0.1 x1 + 0.9 f(x2): undoing it divides by 0.1."""

    def __init__(self):
        super().__init__()
        self.f = nn.ModuleList(Network(WIDTH) for _ in range(12))

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        for f in self.f:
            y = x1 * 0.1 + f(x2) * 0.9
            x1 = x2
            x2 = y
        return torch.cat([x1, x2], dim=1)


def test_h27_small_scales(tmp_path):
    # In float64 errors may grow 1e9 times before a state is kept.
    same(both(Small(), tmp_path, steps=1), data(), bound=1e-6)


class Choosing(nn.Module):
    def __init__(self, width, how: str):
        super().__init__()
        self.lin = nn.Linear(width, width)
        self.how = how

    def forward(self, x):
        if self.how == "topk":
            values, places = torch.topk(x, 2, dim=1)
            return torch.zeros_like(x).scatter(1, places, values) * self.lin(x)
        if self.how == "argmax":
            return F.one_hot(x.argmax(1), x.size(1)).to(x.dtype) * self.lin(x)
        if self.how == "round":
            return torch.remainder(torch.round(x * 1e15), 2.0) * self.lin(x)
        if self.how == "cast":
            odd = (x * 1e15).to(torch.long) % 2
            return odd.to(x.dtype) * self.lin(x)
        if self.how == "maximum":
            return torch.maximum(x, torch.flip(x, [1])) * self.lin(x)
        if self.how == "pool":
            return F.max_pool1d(x, 3, 1, 1) * self.lin(x)
        if self.how == "number":
            return self.lin(x) * (2.0 if float(x[0, 0]) > 1 else 3.0)
        return torch.where(x > 1, x * 3, self.lin(x))


@pytest.mark.parametrize("how", ["topk", "argmax", "round", "cast", "maximum",
                                 "pool", "number", "compare"])
def test_h31_discrete_choices(tmp_path, how):
    models = both(Model(lambda: Choosing(WIDTH, how), 3), tmp_path, steps=0)
    x = torch.ones(6, 2 * WIDTH) + torch.randn(6, 2 * WIDTH).sign() * 2e-16
    same(models, x)


class Padded(nn.Module):
    """Small, so that states stay near the values they begin with."""

    def __init__(self, width, kink):
        super().__init__()
        self.lin = nn.Linear(width, width, bias=False)
        self.kink = kink

    def forward(self, x):
        return 1e-3 * torch.tanh(self.lin(self.kink(x)))


@pytest.mark.parametrize("kink,value", [
    (nn.ReLU(), 0.0), (nn.ReLU6(), 6.0), (nn.Hardtanh(), -1.0),
    (nn.Hardswish(), 3.0), (nn.Softshrink(0.25), 0.25),
    (nn.Threshold(0.1, 20.0), 0.1)], ids=lambda k: type(k).__name__)
def test_h34_values_at_which_there_is_a_kink(tmp_path, kink, value):
    models = both(Model(lambda: Padded(WIDTH, kink), 3), tmp_path, steps=6)
    x = data()
    x[:, 2:6] = value
    torch.ops.inv.reset_stats()
    same(models, x)
    assert torch.ops.inv.stats()["kept"] == 0


def test_h35_checks_at_run_time(tmp_path):
    models = both(Chain(lambda: Network(WIDTH), 1), tmp_path, steps=2)
    for shapes in [((1, WIDTH), (5, WIDTH)), ((5, WIDTH), (1, WIDTH))]:
        base = [torch.randn(*shape) for shape in shapes]
        results = []
        for model in models:
            x = [t.clone().requires_grad_() for t in base]
            y = model(*x)
            results.append(torch.autograd.grad(square(y[0]) + square(y[1]), x))
        near(results[1], results[0])


def test_forward_mode_is_right_or_refused(pair):
    x, t = data(), torch.randn(5, 2 * WIDTH)
    results = []
    for model in pair:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, t)
            y = model(dual)
            results.append(torch.autograd.forward_ad.unpack_dual(y).tangent)
    near([results[1]], [results[0]])


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "grad of vmap",
                                       "vmap of grad"])
def test_function_transforms(pair, transform):
    x = data()

    def rows(model):
        return torch.func.vmap(lambda t: model(t[None])[0])

    def gradient(model):
        return torch.func.grad(lambda t: square(model(t[None])))

    results = [{
        "grad": lambda m: torch.func.grad(lambda t: square(m(t)))(x),
        "vmap": lambda m: rows(m)(x),
        "jvp": lambda m: torch.func.jvp(m, (x,), (x,))[1],
        "grad of vmap": lambda m: torch.func.grad(
            lambda t: square(rows(m)(t)))(x),
        "vmap of grad": lambda m: torch.func.vmap(gradient(m))(x),
    }[transform](model) for model in pair]
    near([results[1]], [results[0]])


@pytest.mark.parametrize("randomness", ["error", "different", "same"])
def test_vmap_over_a_dropout(tmp_path, randomness):
    models = both(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    x = data()

    def run(model):
        torch.manual_seed(1)
        return torch.func.vmap(lambda t: model(t[None])[0],
                               randomness=randomness)(x)

    if randomness == "error":
        for model in models:
            with pytest.raises(RuntimeError, match="randomness"):
                run(model)
        return
    near([run(models[1])], [run(models[0])])
