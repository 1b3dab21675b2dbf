"""Several things at once, and what happens between forward and backward, on
rewritten archives in Python. Reference: plain autograd on the original, float64."""

import copy
import gc
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import (allow_mutation_on_saved_tensors,
                                  disable_saved_tensors_hooks, saved_tensors_hooks)
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from compare import both, gradients, near, same, square
from nets import WIDTH, Dropping, Model, Network, data

pytestmark = pytest.mark.usefixtures("hazard")


@pytest.fixture(autouse=True)
def nothing_in_autograds_queue(hazard):
    """What it still holds after an error goes with its next run."""
    yield
    torch.ones(1, requires_grad=True).sum().backward()


class Coupling(nn.Module):
    """y = x1 * exp(s) + t, and the log-determinant."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x1, x2):
        s, t = torch.chunk(self.net(x2), 2, dim=1)
        s = torch.tanh(s)
        return x1 * torch.exp(s) + t, s.sum(1)


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(Coupling() for _ in range(3))

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        logdet = torch.zeros(x.size(0))
        for step in self.steps:
            y, own = step(x1, x2)
            logdet = logdet + own
            x1 = x2
            x2 = y
        return torch.cat([x1, x2], 1), logdet


@pytest.fixture
def flow(hazard, tmp_path):
    return both(Flow(), tmp_path, steps=3)


@pytest.fixture
def dropping(hazard, tmp_path):
    return both(Model(lambda: Dropping(WIDTH), 3), tmp_path, steps=6)


def parameters(model):
    """Those that get a gradient: Dropping does not use its norm."""
    return [p for n, p in model.named_parameters() if "norm" not in n]


def agree(models, body, bound=1e-11):
    """`body` gives tensors of the original and the rewritten model."""
    results = []
    for model in models:
        torch.manual_seed(9)
        results.append([g if g is None else g.detach().clone()
                        for g in body(model)])
        model.zero_grad()
    near(results[1], results[0], bound)


def refuse(models, body, message):
    """Both the original and the rewritten model raise that error."""
    for model in models:
        with pytest.raises(RuntimeError, match=message):
            body(model)
        model.zero_grad()


# --------------------------------------------------------------- other shapes


def test_h15_no_rows_in_steps_whose_growth_is_measured(flow):
    for rows in (0, 1, 3):
        def body(model):
            x = torch.randn(rows, 2 * WIDTH, requires_grad=True)
            return torch.autograd.grad(square(model(x)),
                                       [x, *model.parameters()])

        agree(flow, body)


def test_h13_only_a_side_result_is_in_the_loss(flow):
    def body(model):
        x = data().requires_grad_()
        return torch.autograd.grad(model(x)[1].sum(), [x, *model.parameters()],
                                   allow_unused=True)

    agree(flow, body)


class Mixed(nn.Module):
    """A float32 network beside float64 states."""

    def __init__(self):
        super().__init__()
        self.f = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        for f in self.f:
            x1, x2 = x2, x1 + f(x2.float()).double()
        return torch.cat([x1, x2], 1)


def test_h35_two_dtypes(tmp_path):
    same(both(Mixed().float(), tmp_path, steps=0), data(), bound=1e-6)


def test_h35_a_model_in_half_precision(tmp_path):
    models = both(Model(lambda: Network(WIDTH), 2), tmp_path, steps=4)
    for model in models:
        model.to(torch.bfloat16)

    def body(model):
        x = data().bfloat16().requires_grad_()
        return [g.float() for g in torch.autograd.grad(
            square(model(x)).float(), [x, *model.parameters()])]

    agree(models, body, 2e-2)


# ------------------------------------------------ other ways to ask for gradients


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("which", ["pair", "flow", "dropping"])
def test_h10_many_gradients_at_once(request, which, create):
    """A dropout is drawn again for all of them once."""
    def body(model):
        x = data().requires_grad_()
        y = model(x)
        y = [y] if isinstance(y, torch.Tensor) else list(y)
        return torch.autograd.grad(
            y, [x, *parameters(model)], [torch.randn(4, *t.shape) for t in y],
            is_grads_batched=True, create_graph=create)

    agree(request.getfixturevalue(which), body)


@pytest.mark.parametrize("which", ["pair", "dropping"])
def test_h10_vmap_over_a_backward(request, which):
    def body(model):
        x = data().requires_grad_()
        y = model(x)
        wanted = [x, *parameters(model)]

        def one(g):
            return torch.autograd.grad(y, wanted, g, retain_graph=True)

        return torch.func.vmap(one)(torch.randn(4, *y.shape))

    agree(request.getfixturevalue(which), body)


def test_h11_checked_against_differences(pair, flow):
    x = data(rows=2).requires_grad_()
    for model in (pair[1], flow[1]):
        assert torch.autograd.gradcheck(model, (x,), check_batched_grad=True)
        assert torch.autograd.gradgradcheck(model, (x,))


@pytest.mark.parametrize("how", ["jacobian", "vectorized", "hessian", "hvp",
                                 "jacrev", "jacfwd", "func.hessian", "vjp"])
def test_h11_jacobians_and_hessians(pair, how):
    x = data(rows=2)
    of = torch.autograd.functional

    def body(model):
        def loss(t):
            return square(model(t))

        return {"jacobian": lambda: [of.jacobian(model, x)],
                "vectorized": lambda: [of.jacobian(model, x, vectorize=True)],
                "hessian": lambda: [of.hessian(loss, x)],
                "hvp": lambda: of.hvp(loss, x, x),
                "jacrev": lambda: [torch.func.jacrev(model)(x)],
                "jacfwd": lambda: [torch.func.jacfwd(model)(x)],
                "func.hessian": lambda: [torch.func.hessian(loss)(x)],
                "vjp": lambda: torch.func.vjp(model, x)[1](x)}[how]()

    agree(pair, body)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_h14_backward_in_another_mode(dropping, around):
    def body(model):
        x = data().requires_grad_()
        loss = square(model(x))
        with around():
            loss.backward()
        return [x.grad, *(p.grad for p in parameters(model))]

    agree(dropping, body)


def test_h08_no_gradient_arrives(pair):
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return None

    def body(model):
        x = data().requires_grad_()
        return torch.autograd.grad(Cut.apply(model(x)).sum(),
                                   [x, *model.parameters()], allow_unused=True)

    agree(pair, body)


# ------------------------------------------ between the forward and the backward


def test_h24_a_copy_is_made(pair):
    def body(model):
        x = data().requires_grad_()
        y = model(x)
        other = copy.deepcopy(model)
        found = torch.autograd.grad(square(y), [x, *model.parameters()])
        return [*found, *torch.autograd.grad(square(other(x)),
                                             [x, *other.parameters()])]

    agree(pair, body)


def test_h22_the_module_is_gone(pair, tmp_path):
    results = []
    x = data()
    for name in ("model.pt", "model.inv.pt"):
        leaf = x.clone().requires_grad_()
        model = torch.jit.load(str(tmp_path / name))
        leaves = [leaf, *model.parameters()]
        y = model(leaf)
        del model
        gc.collect()
        results.append(torch.autograd.grad(square(y), leaves))
    near(results[1], results[0])


def test_h24_the_module_gets_another_dtype(pair):
    """Plain autograd raises; the steps have what the forward had."""
    x = data()
    expected = list(gradients(pair[0], x).values())[1:]
    leaf = x.clone().requires_grad_()
    y = pair[1](leaf)
    pair[1].to(torch.float32)
    square(y).backward()
    found = [leaf.grad, *(p.grad.double() for p in pair[1].parameters())]
    near(found, expected, 1e-6)


def test_h03_other_weights_are_loaded(pair):
    def body(model):
        x = data().requires_grad_()
        y = model(x)
        model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})
        square(y).backward()

    refuse(pair, body, "modified by an inplace operation")


def test_h03_the_error_names_the_weight(pair):
    y = pair[1](data())
    with torch.no_grad():
        dict(pair[1].named_parameters())["chain.blocks.1.f.up.bias"].add_(1)
    with pytest.raises(RuntimeError, match="chain.blocks.1.*'up_bias'"):
        square(y).backward()


def test_h12_weights_change_between_two_backward_calls(pair):
    def body(model):
        loss = square(model(data()))
        loss.backward(retain_graph=True)
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad, alpha=0.1)
        loss.backward()

    refuse(pair, body, "modified by an inplace operation")


def test_h03_changes_that_are_allowed(pair):
    """Saved tensors are copied when somebody changes them."""
    def body(model):
        first = next(model.parameters())
        with allow_mutation_on_saved_tensors():
            x = data().requires_grad_()
            y = model(x)
            with torch.no_grad():
                first.mul_(2)
            found = torch.autograd.grad(square(y), [x, *model.parameters()])
            with torch.no_grad():
                first.div_(2)
        return found

    agree(pair, body)


def test_h30_weights_are_frozen_and_thawed(pair):
    def body(model):
        x = data().requires_grad_()
        y = model(x)
        some = list(model.parameters())[:3]
        for p in some:
            p.requires_grad_(False)
        square(y).backward()
        for p in some:
            p.requires_grad_(True)
        return [x.grad, *(p.grad for p in model.parameters())]

    agree(pair, body)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("shift", torch.full((WIDTH,), 1.3))

    def forward(self, x):
        return torch.tanh(self.lin(x)) + self.shift


class Writing(nn.Module):
    """Its networks read buffers, which it writes afterwards."""

    def __init__(self, how: str):
        super().__init__()
        self.f = Reader()
        self.g = Reader()
        self.how = how

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        x1 = x1 + self.f(x2)
        x2 = x2 + self.g(x1)
        if self.how == "whole":
            self.f.shift.mul_(0.5)
            self.g.shift.copy_(x1.detach().mean(0))
        if self.how == "piece":
            self.f.shift[:2].mul_(0.5)
        if self.how == "branch":
            if self.training:
                self.f.shift.mul_(0.5)
        if self.how == "loop":
            for i in range(2):
                self.g.shift.add_(float(i))
        if self.how == "set":
            self.f.shift = self.f.shift * 2
        return torch.cat([x1, x2], 1)


@pytest.mark.parametrize("how", ["whole", "piece", "branch", "loop", "set"])
def test_h05_a_buffer_is_written_after_it_was_read(tmp_path, how):
    models = both(Writing(how), tmp_path, steps=2)
    torch.ops.inv.reset_stats()

    def body(model):
        x = data().requires_grad_()
        y = model(x)
        model(x.detach())  # which writes again
        found = torch.autograd.grad(square(y), [x, *model.parameters()])
        return [y, *found, *model.buffers()]

    agree(models, body)
    assert torch.ops.inv.stats()["kept"] == 0


def test_h05_somebody_else_writes_such_a_buffer(tmp_path):
    """Which inv-opt could not know: an error that names it (by what the buffers of
    both steps have in common)."""
    _, model = both(Writing("none"), tmp_path, steps=2)
    y = model(data())
    model.f.shift.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation(.|\n)*'shift'"):
        square(y).backward()


# ----------------------------------------------------------------------- errors


def test_h12_a_backward_that_fails_between_two_others(pair):
    def body(model):
        x = data().requires_grad_()
        calls = []

        def hook(g):
            calls.append(g)
            if len(calls) == 2:
                raise ValueError("planted")

        x.register_hook(hook)
        loss = square(model(x))
        loss.backward(retain_graph=True)
        with pytest.raises(ValueError, match="planted"):
            loss.backward(retain_graph=True)
        loss.backward()
        return [x.grad, *(p.grad for p in model.parameters())]

    agree(pair, body)


def test_h12_a_backward_that_failed_is_not_run_again(pair):
    """Without retain_graph, a part of the graph is gone."""
    def body(model):
        last = list(model.parameters())[-1]

        def hook(g):
            raise ValueError("planted")

        handle = last.register_hook(hook)
        y = model(data())
        with pytest.raises(ValueError, match="planted"):
            square(y).backward()
        handle.remove()
        square(y).backward()

    refuse(pair, body, "a second time")


def test_h20_a_saved_tensor_hook_that_raises(pair):
    def raising(t):
        raise ValueError("planted")

    x = data()
    for model in pair:
        # TorchScript gives another error for it, the original's too.
        with pytest.raises(Exception):
            with saved_tensors_hooks(raising, lambda t: t):
                model(x)
        with saved_tensors_hooks(lambda t: t, raising):
            y = model(x)
        with pytest.raises(ValueError, match="planted"):
            square(y).backward()
        del y
    same(pair, x)


def test_h33_where_saved_tensor_hooks_are_forbidden(pair):
    expected = gradients(pair[0], x := data())
    with disable_saved_tensors_hooks("not here"):
        near(gradients(pair[1], x), expected)


# -------------------------------------------------------- hooks and checkpoints


def test_h18_hooks_that_change_gradients_in_place(pair):
    def body(model):
        x = data().requires_grad_()
        y = model(x)
        y.register_hook(lambda g: g.mul_(3))
        x.register_hook(lambda g: g.add_(1))
        handles = [p.register_hook(lambda g: g.mul_(2))
                   for p in model.parameters()]
        found = torch.autograd.grad(square(y), [x, *model.parameters()])
        for handle in handles:
            handle.remove()
        return found

    agree(pair, body)


def test_h28_a_hook_asks_for_gradients_of_the_same_graph(pair):
    def body(model):
        x = data().requires_grad_()
        inner = model(x)
        y = inner * 1  # the hook is on this one, or it would call itself
        again = inner.sin().sum()
        found = []

        def hook(g):
            found.extend(torch.autograd.grad(again, [x, *model.parameters()],
                                             retain_graph=True))
            return g * 2

        y.register_hook(hook)
        first = torch.autograd.grad(square(y), [x, *model.parameters()])
        return [*first, *found]

    agree(pair, body)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("depth", [2, 3])
def test_h33_nested_checkpoints(dropping, reentrant, depth):
    def within(call):
        return lambda x: checkpoint(call, x, use_reentrant=reentrant)

    def body(model):
        call = model
        for _ in range(depth):
            call = within(call)
        x = data().requires_grad_()
        with set_checkpoint_early_stop(False):
            y = call(x * 1)
            square(y).backward()
        return [y, x.grad, *(p.grad for p in parameters(model))]

    agree(dropping, body)


# -------------------------------------------------------------- threads, autocast


def test_h19_threads_over_one_graph_with_dropout(dropping):
    x = data().requires_grad_()
    wanted = [[x, *parameters(model)] for model in dropping]
    torch.manual_seed(3)
    expected = torch.autograd.grad(square(dropping[0](x)), wanted[0])
    torch.manual_seed(3)
    y = dropping[1](x)
    results = []

    def work():
        for _ in range(5):
            results.append(torch.autograd.grad(square(y), wanted[1],
                                               retain_graph=True))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 30
    for result in results:
        near(result, expected)


@pytest.fixture
def single(hazard, tmp_path):
    """In float32, with one network for all steps."""
    torch.set_default_dtype(torch.float32)
    network = Network(WIDTH)
    return both(Model(lambda: network, 3), tmp_path, steps=2)


def bfloat16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_h16_autocast_s_cache(single):
    """Filled without grad mode, and shared with an operator outside of steps."""
    def body(model):
        x = data().requires_grad_()
        weight = next(p for n, p in model.named_parameters()
                      if n.endswith("up.weight"))
        with bfloat16():
            with torch.no_grad():
                model(x)
            y = model(x)
            z = F.linear(y[:, :WIDTH], weight)
        found = torch.autograd.grad(square(y.float()) + square(z.float()),
                                    [x, *model.parameters()])
        assert all(g is not None for g in found)
        return found

    agree(single, body, 3e-2)


def test_h16_autocast_on_the_forward_s_thread_alone(single):
    def body(model):
        x = data().requires_grad_()
        outputs = []

        def forward():
            with bfloat16():
                outputs.append(model(x))

        thread = threading.Thread(target=forward)
        thread.start()
        thread.join()
        return [*outputs, *torch.autograd.grad(square(outputs[0].float()),
                                               [x, *model.parameters()])]

    agree(single, body, 3e-2)


@pytest.mark.parametrize("forward_too", [False, True])
def test_h16_autocast_around_the_backward(single, forward_too):
    def body(model):
        x = data().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=forward_too):
            y = model(x)
        loss = square(y.float())
        with bfloat16():
            return [y, *torch.autograd.grad(loss, [x, *model.parameters()])]

    agree(single, body, 3e-2)
