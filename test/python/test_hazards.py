"""Rows of docs/hazards.md on rewritten archives in Python. Reference: plain
autograd on the original, float64."""

import copy
import subprocess
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.jit.mobile import _load_for_lite_interpreter
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from conftest import TOOL
from nets import Block, Chain, Model, Network, rewrite

WIDTH = 4


@pytest.fixture(autouse=True)
def nothing_left():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    stats = torch.ops.inv.stats()
    assert stats["live_nodes"] == 0
    assert stats["live_slots"] == 0


@pytest.fixture
def pair(tmp_path):
    return rewrite(Model(lambda: Network(WIDTH), 3), tmp_path, steps=6)


def data(rows=5, width=2 * WIDTH):
    return torch.randn(rows, width, requires_grad=True)


def square(y):
    return (y * y.sin()).sum()


def gradients(model, x, loss=square, seed=1):
    """Output, then gradients of the input and all parameters."""
    torch.manual_seed(seed)
    x = x.detach().clone().requires_grad_()
    y = model(x)
    g = torch.autograd.grad(loss(y), [x, *model.parameters()], allow_unused=True)
    return [y.detach().clone(), *g]


def near(actual, expected, bound=1e-12):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        if e is None or a is None:
            assert a is e or (a if e is None else e).abs().max() == 0
            continue
        if e.numel() > 0:
            assert (a - e).abs().max() <= bound * e.abs().max()


def same(models, x, loss=square, bound=1e-12):
    expected = gradients(models[0], x, loss)
    actual = gradients(models[1], x, loss)
    assert torch.equal(actual[0], expected[0])
    near(actual, expected, bound)


def test_h01_clean_chain(pair):
    same(pair, data())


@pytest.mark.parametrize("change", ["mul_", "relu_", "zero_"])
def test_h02_output_changed_in_place_is_an_error_or_right(tmp_path, change):
    models = rewrite(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)

    def run(model):
        x = [torch.randn(5, WIDTH, requires_grad=True) for _ in range(2)]
        y = list(model(*x))
        getattr(y[1], change)(*([2] if change == "mul_" else []))
        return torch.autograd.grad(y[0].sum() + y[1].sum(), x)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run(models[1])


def test_h03_weight_changed_is_an_error(pair):
    for model in pair:
        loss = square(model(data()))
        with torch.no_grad():
            next(model.parameters()).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            loss.backward()
        del loss


class Dropping(Network):
    def __init__(self, width):
        super().__init__(width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.down(self.drop(torch.tanh(self.up(x)))))


def test_h04_dropout(tmp_path):
    models = rewrite(Model(lambda: Dropping(WIDTH), 3), tmp_path, steps=6)
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


class Normed(nn.Module):
    def __init__(self, width, momentum):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, momentum=momentum)
        self.lin = nn.Linear(width, width)

    def forward(self, x):
        return torch.tanh(self.lin(self.norm(x)))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_h05_batch_norm_statistics_move_once(tmp_path, momentum):
    models = rewrite(Model(lambda: Normed(WIDTH, momentum), 2), tmp_path, steps=4)
    for _ in range(3):
        same(models, data(), bound=1e-11)
        for a, e in zip(models[1].buffers(), models[0].buffers()):
            assert torch.equal(a, e)


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
    same(rewrite(Around(how), tmp_path, steps=0), data())


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
    models = rewrite(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)
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
    models = rewrite(Chain(lambda: Network(WIDTH), 1), tmp_path, steps=2)
    for weights in (False, True):
        for needs in [(False, False), (True, False), (False, True), (True, True)]:
            flags = []
            for model in models:
                for p in model.parameters():
                    p.requires_grad_(weights)
                x = [torch.randn(5, WIDTH, requires_grad=n) for n in needs]
                flags.append([y.requires_grad for y in model(*x)])
            assert flags[1] == flags[0]


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
    models = rewrite(Model(lambda: Network(WIDTH), 3), tmp_path, steps=6)
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
    models = rewrite(Shared(), tmp_path)
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
    models = rewrite(Chain(lambda: Network(WIDTH), 2), tmp_path, steps=4)
    x = [torch.randn(5, WIDTH) for _ in range(2)]
    results = []
    for model in models:
        y = model(*(t.clone().requires_grad_() for t in x))
        results.append(torch.autograd.grad(square(y[0]) + square(y[1]), y))
    near(results[1], results[0])


def test_h19_threads(pair):
    x = data()
    expected = gradients(pair[0], x)
    results = []

    def work():
        for _ in range(5):
            results.append(gradients(pair[1], x))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 30
    for result in results:
        near(result, expected)


class Forking(nn.Module):
    def __init__(self):
        super().__init__()
        self.chain = Chain(lambda: Network(WIDTH), 2)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        future = torch.jit.fork(torch.sin, x1)
        y1, y2 = self.chain(x1, x2)
        return torch.cat([y1, y2, torch.jit.wait(future)], dim=1)


def test_h19_fork(tmp_path):
    same(rewrite(Forking(), tmp_path, steps=0), data())


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
    same(rewrite(Force(), tmp_path, steps=0), data(), loss=lambda y: y,
         bound=1e-10)


class Raising(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lin = nn.Linear(width, width)

    def forward(self, x):
        if bool(x.sum() > 1e6):
            raise ValueError("too large")
        return torch.tanh(self.lin(x))


def test_h20_exception_in_a_conditioner(tmp_path):
    models = rewrite(Model(lambda: Raising(WIDTH), 2), tmp_path, steps=0)
    for model in models:
        with pytest.raises(Exception, match="too large"):
            model(data() + 1e6)
    same(models, data())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_h21_nan_and_infinity(pair, bad):
    x = data().detach()
    x[1, 2] = bad
    expected, actual = gradients(pair[0], x), gradients(pair[1], x)
    for a, e in zip(actual, expected):
        assert not a[~e.isfinite()].isfinite().any()


def test_h22_nothing_survives(pair):
    for _ in range(20):
        gradients(pair[1], data())
    assert torch.ops.inv.stats()["live_records"] == 0


@pytest.mark.parametrize("how", ["save and load", "deepcopy", "copy", "to"])
def test_h24_copies(pair, tmp_path, how):
    original, model = pair
    if how == "save and load":
        model.save(str(tmp_path / "again.pt"))
        model = torch.jit.load(str(tmp_path / "again.pt"))
    if how == "deepcopy":
        model = copy.deepcopy(model)
    if how == "copy":
        model = copy.copy(model)
    if how == "to":
        model = model.to(torch.float32).to("cpu").to(torch.float64)
        original = original.to(torch.float32).to(torch.float64)
    same((original, model), data())


def test_h24_train_and_eval_flip(tmp_path):
    models = rewrite(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    for mode in (False, True, False, True):
        for model in models:
            model.train(mode)
        same(models, data())


def test_h24_freeze_is_refused_with_the_way_out(pair, tmp_path):
    frozen = torch.jit.freeze(pair[1].eval())
    with pytest.raises(RuntimeError, match="--passes=inline-steps"):
        frozen(data())
    # The way out.
    subprocess.run([TOOL, tmp_path / "model.inv.pt", "-o", tmp_path / "plain.pt",
                    "-q", "--passes=inline-steps"], check=True)
    frozen = torch.jit.freeze(torch.jit.load(str(tmp_path / "plain.pt")).eval())
    x = data()
    assert torch.equal(frozen(x), pair[0].eval()(x))


def test_h24_the_mobile_format_is_refused_with_the_way_out(pair, tmp_path):
    path = str(tmp_path / "model.ptl")
    pair[1]._save_for_lite_interpreter(path)
    with pytest.raises(RuntimeError, match="--passes=inline-steps"):
        _load_for_lite_interpreter(path)(data())


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
        models = rewrite(Model(lambda: Network(WIDTH), depth), folder)
        x = data()
        e, a = gradients(models[0], x), gradients(models[1], x)
        errors[depth] = max(((p - q).abs().max() / q.abs().max()).item()
                            for p, q in zip(a, e))
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
    same(rewrite(Small(), tmp_path, steps=1), data(), bound=1e-13 * 300)


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
    x = data()
    results = [torch.autograd.grad(square(model(x)), [x]) for model in pair]
    near(results[1], results[0])


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
        return torch.where(x > 1, x * 3, self.lin(x))


@pytest.mark.parametrize("how", ["topk", "argmax", "round", "compare"])
def test_h31_discrete_choices(tmp_path, how):
    models = rewrite(Model(lambda: Choosing(WIDTH, how), 3), tmp_path, steps=0)
    x = torch.ones(6, 2 * WIDTH) + torch.randn(6, 2 * WIDTH).sign() * 2e-16
    same(models, x)


@pytest.mark.parametrize("before", ["invert", "recompute", "store"])
@pytest.mark.parametrize("after", ["invert", "recompute", "store"])
def test_h32_modes(pair, before, after):
    original, model = pair
    steps = [m for n, m in model.named_children() if n.startswith("inv_step_")]
    x = data()
    expected = gradients(original, x)
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
    expected = gradients(pair[0], x)
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
    near(result, expected[1:])
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
    models = rewrite(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    x = data()
    expected = gradients(models[0], x)
    torch.manual_seed(1)
    leaf = x.detach().clone().requires_grad_()
    # An early stop is an exception, which no TorchScript model lets through, the
    # original no more than the rewritten one.
    with set_checkpoint_early_stop(False):
        y = checkpoint(models[1], leaf, use_reentrant=reentrant)
        square(y).backward()
    near([y.detach(), leaf.grad, *(p.grad for p in models[1].parameters())],
         expected)


class Padded(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lin = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return torch.tanh(self.lin(torch.relu(x)))


def test_h34_exact_zeros(tmp_path):
    models = rewrite(Model(lambda: Padded(WIDTH), 3), tmp_path, steps=6)
    x = data().detach()
    x[:, 2:6] = 0
    same(models, x)


def test_h35_checks_at_run_time(tmp_path):
    models = rewrite(Chain(lambda: Network(WIDTH), 1), tmp_path, steps=2)
    for shapes in [((1, WIDTH), (5, WIDTH)), ((5, WIDTH), (1, WIDTH))]:
        base = [torch.randn(*shape) for shape in shapes]
        results = []
        for model in models:
            x = [t.clone().requires_grad_() for t in base]
            y = model(*x)
            results.append(torch.autograd.grad(square(y[0]) + square(y[1]), x))
        near(results[1], results[0])


def test_anomaly_mode(pair):
    with torch.autograd.set_detect_anomaly(True):
        same(pair, data())


def test_forward_mode_is_right_or_refused(pair):
    x, t = data().detach(), torch.randn(5, 2 * WIDTH)
    results = []
    for model in pair:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, t)
            y = model(dual)
            results.append(torch.autograd.forward_ad.unpack_dual(y).tangent)
    near([results[1]], [results[0]])


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_function_transforms_are_right_or_refused(pair, transform):
    x = data().detach()
    transformed = {
        "grad": lambda m: torch.func.grad(lambda t: square(m(t)))(x),
        "vmap": lambda m: torch.func.vmap(lambda t: m(t[None])[0])(x),
        "jvp": lambda m: torch.func.jvp(m, (x,), (x,))[1]}[transform]
    expected = transformed(pair[0])
    if transform == "vmap":
        with pytest.raises(RuntimeError, match="not implemented for inv::"):
            transformed(pair[1])
        return
    near([transformed(pair[1])], [expected])
