"""Rows of docs/hazards.md on rewritten archives in Python: threads, copies,
executors, what other tools do with a rewritten model. Reference: plain autograd on
the original, float64."""

import copy
import os
import pickle
import subprocess
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.jit.mobile import _load_for_lite_interpreter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from compare import both, gradients, near, same, square
from conftest import LIBRARIES, TOOL
from nets import WIDTH, Chain, Dropping, Model, Network, data

pytestmark = pytest.mark.usefixtures("hazard")


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
    same(both(Forking(), tmp_path, steps=0), data())


def test_h19_a_process_that_was_forked_in_between(pair):
    x = data()
    expected = gradients(pair[0], x)["input 0"]
    leaf = x.clone().requires_grad_()
    y = pair[1](leaf)
    child = os.fork()
    if child == 0:
        result = 2
        try:
            g, = torch.autograd.grad(square(y), leaf)
            result = int((g - expected).abs().max() > 1e-12)
        finally:
            os._exit(result)
    assert os.waitpid(child, 0)[1] == 0


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
    models = both(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    for mode in (False, True, False, True):
        for model in models:
            model.train(mode)
        same(models, data())


@pytest.mark.parametrize("optimize", [False, True])
def test_h24_calls_of_all_sorts_in_turn(tmp_path, optimize):
    """Other sizes, other modes, without grad mode, under both executors."""
    models = both(Model(lambda: Dropping(WIDTH), 2), tmp_path, steps=4)
    torch._C._set_graph_executor_optimize(optimize)
    try:
        for rows, train, grad in [(5, True, True), (5, True, True), (3, False, True),
                                  (3, True, False), (7, True, True), (0, True, True),
                                  (1, False, True), (5, False, False),
                                  (5, True, True)]:
            x = data(rows)
            for model in models:
                model.train(train)
            if grad:
                near(gradients(models[1], x), gradients(models[0], x))
                continue
            with torch.no_grad():
                results = []
                for model in models:
                    torch.manual_seed(1)
                    results.append(model(x))
            assert torch.equal(*results)
    finally:
        torch._C._set_graph_executor_optimize(False)


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


# ------------------------------------------------------ what other tools do


def test_h24_optimize_for_inference_is_refused_with_the_way_out(pair, tmp_path):
    optimized = torch.jit.optimize_for_inference(pair[1].eval())
    with pytest.raises(RuntimeError, match="--passes=inline-steps"):
        optimized(data())
    subprocess.run([TOOL, tmp_path / "model.inv.pt", "-o", tmp_path / "plain.pt",
                    "-q", "--passes=inline-steps"], check=True)
    plain = torch.jit.load(str(tmp_path / "plain.pt")).eval()
    x = data()
    torch.testing.assert_close(torch.jit.optimize_for_inference(plain)(x),
                               pair[0].eval()(x))


@pytest.mark.parametrize("how", ["script", "trace"])
def test_h24_inside_of_another_model(pair, tmp_path, how):
    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.head = nn.Linear(2 * WIDTH, 2 * WIDTH)

        def forward(self, x):
            return self.head(self.inner(x).sin())

    models = []
    for inner in pair:
        torch.manual_seed(5)
        outer = Outer(inner)
        outer = (torch.jit.script(outer) if how == "script"
                 else torch.jit.trace(outer, data(), check_trace=False))
        outer.save(str(tmp_path / "outer.pt"))
        models.append(torch.jit.load(str(tmp_path / "outer.pt")))
    same(models, data())


def test_h24_a_pickle_is_refused_as_the_original_s(pair):
    for model in pair:
        with pytest.raises(Exception, match="pickle|serialize"):
            pickle.dumps(model)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_around_a_model(pair, backend):
    torch._dynamo.reset()
    x = data()
    expected = gradients(pair[0], x)
    for _ in range(2):
        compiled = torch.compile(lambda t: square(pair[1](t).sin()),
                                 backend=backend)
        leaf = x.clone().requires_grad_()
        found = torch.autograd.grad(compiled(leaf), [leaf, *pair[1].parameters()])
        leaf = x.clone().requires_grad_()
        want = torch.autograd.grad(square(pair[0](leaf).sin()),
                                   [leaf, *pair[0].parameters()])
        near(found, want)
    near(gradients(pair[1], x), expected)
    torch._dynamo.reset()


def test_torch_export_is_refused(pair):
    with pytest.raises(Exception, match="ScriptModule|ScriptMethod|inv"):
        torch.export.export(pair[1], (data(),))


def test_compiled_autograd_is_refused(pair):
    from torch._dynamo import compiled_autograd
    with pytest.raises(NotImplementedError, match="InvStepBackward"):
        with compiled_autograd._enable(lambda graph: graph):
            square(pair[1](data())).backward()
    torch._dynamo.reset()


def test_tensors_without_values(pair, tmp_path):
    """As fake tensors, and on the meta device: plain operators do the work."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(data()).requires_grad_()
        g, = torch.autograd.grad(square(pair[1](x)), x)
        assert type(g).__name__ == "FakeTensor" and g.shape == x.shape
    meta = torch.jit.load(str(tmp_path / "model.inv.pt"), map_location="meta")
    x = torch.randn(5, 2 * WIDTH, device="meta", requires_grad=True)
    g, = torch.autograd.grad(square(meta(x)), x)
    assert g.is_meta and g.shape == x.shape


class Wrapped(torch.Tensor):
    """A tensor around another, which sees every operator."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), dtype=inner.dtype,
            requires_grad=inner.requires_grad)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        out = func(*tree_map_only(Wrapped, lambda t: t.inner, args),
                   **tree_map_only(Wrapped, lambda t: t.inner, kwargs or {}))
        return tree_map_only(torch.Tensor, Wrapped, out)


class Counting(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_tensor_subclasses(pair):
    x = data()
    results = []
    for model in pair:
        leaf = Wrapped(x).requires_grad_()
        results.append([torch.autograd.grad(square(model(leaf)), leaf)[0].inner])
    near(results[1], results[0])


def test_dispatch_modes(pair):
    x = data()
    expected = gradients(pair[0], x)
    with Counting() as mode:
        near(gradients(pair[1], x), expected)
    assert mode.calls > 0


def test_another_number_of_threads_in_backward(pair):
    x = data()
    expected = gradients(pair[0], x)
    before = torch.get_num_threads()
    leaf = x.clone().requires_grad_()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(1)
        y = pair[1](leaf)
        torch.set_num_threads(1)
        found = torch.autograd.grad(square(y), [leaf, *pair[1].parameters()])
    finally:
        torch.set_num_threads(before)
    near([y.detach(), *found], list(expected.values()))


# --------------------------------------------------------------------- memory


@pytest.fixture(scope="module")
def faults():
    torch.ops.load_library(str(LIBRARIES / "libinv_test_faults.so"))
    torch.ops.inv_faults.allocated()  # first what counts, then what fails
    torch.ops.inv_faults.failed()
    yield torch.ops.inv_faults
    torch.ops.inv_faults.failed()


def test_h22_bytes_are_the_same_after_a_thousand_iterations(pair, faults):
    for _ in range(3):  # what is made once
        gradients(pair[1], data())
    before = faults.allocated()
    for _ in range(1000):
        gradients(pair[1], data())
    assert faults.allocated() == before


def test_h20_memory_runs_out_at_every_allocation(tmp_path, faults):
    models = both(Model(lambda: Dropping(WIDTH), 1), tmp_path, steps=2)
    x = data()
    expected = gradients(models[0], x)
    failures = 0
    while True:
        faults.fail_at(failures + 1)
        try:
            gradients(models[1], x)
        except RuntimeError as error:
            assert "planted: out of memory" in str(error)
        if not faults.failed():
            break
        failures += 1
        # What autograd's queue still holds goes with its next run.
        torch.ones(1, requires_grad=True).sum().backward()
        stats = torch.ops.inv.stats()
        assert stats["live_nodes"] == stats["live_slots"] == 0
        near(gradients(models[1], x), expected)
    assert failures > 50
