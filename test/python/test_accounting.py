"""--analyze --input: the bytes that it says are kept for backward, and dropped,
against what is really kept, for every model of examples/models."""

import ctypes
import gc
import json
import re
import subprocess

import pytest
import torch

from architectures import ARCHITECTURES
from conftest import LIBRARY, ROOT, TOOL
from recurrent import FOUND, NEAR, WIDTH, Fixed, Gated, GatedHalves, Gates

CASES = [pytest.param(a, form, id=f"{a.name}-{form}")
         for a in ARCHITECTURES for form in a.forms]
REASONS = set(re.findall(r'REASON\(\w+, "([^"]+)"',
                         (ROOT / "passes/support/Reasons.def").read_text()))


@pytest.fixture(scope="module")
def allocated():
    """Bytes of CPU tensors made from now on, as the runtime's allocator counts
    them."""
    library = ctypes.CDLL(str(LIBRARY))
    library["_ZN3inv17CountingAllocator7installEv"]()
    current = library["_ZN3inv17CountingAllocator7currentEv"]
    current.restype = ctypes.c_int64
    return current


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """analysed(architecture, form): both archives' paths and the accounting."""
    folder = tmp_path_factory.mktemp("accounting")
    made = {}

    def get(architecture, form):
        if (architecture.name, form) not in made:
            original = folder / f"{architecture.name}.{form}.pt"
            if not original.exists():
                architecture.save(folder, architecture.name, *architecture.test)
            rewritten = folder / f"{architecture.name}.{form}.inv.pt"
            report = folder / "analysis.json"
            subprocess.run([TOOL, original, "-o", rewritten, "-q",
                            "--input=images:f32[16,1,8,8]",
                            f"--analyze-output={report}"], check=True)
            made[architecture.name, form] = (
                original, rewritten,
                json.loads(report.read_text())["methods"][0])
        return made[architecture.name, form]

    return get


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 8, 8, generator=generator, requires_grad=True)


def flat(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def storages(tensors):
    """{address: bytes}"""
    found = [t.untyped_storage() for t in tensors]
    return {s.data_ptr(): s.nbytes() for s in found if s.nbytes()}


def saved_by_autograd(model, *inputs):
    """What a forward call saves, without what is there anyway (parameters,
    buffers, constants): that is saved by a second call, too."""
    calls = []
    for _ in range(2):
        saved, own = [], [x.clone() for x in inputs]

        def pack(tensor):
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = model(*own)
        calls.append((storages(saved), saved, outputs, own))
    first, second = calls[0][0], calls[1][0]
    return sum(size for at, size in first.items() if at not in second)


@pytest.mark.parametrize("architecture,form", CASES)
def test_plain_bytes_are_those_that_autograd_saves(analysed, architecture, form):
    original, _, accounting = analysed(architecture, form)
    model = torch.jit.load(str(original)).train()
    assert accounting["unit"] == "bytes"
    assert accounting["before"] == saved_by_autograd(model, images())


@pytest.mark.parametrize("architecture,form", CASES)
def test_every_byte_is_accounted_for(analysed, architecture, form):
    _, _, accounting = analysed(architecture, form)
    kept = accounting["kept"]
    assert accounting["before"] == (
        accounting["dropped"] + accounting["streams"] +
        sum(row["amount"] for row in kept if not row["by_step"]))
    assert accounting["after"] == sum(row["amount"] for row in kept)
    for row in kept:
        assert row["reason"] in REASONS
        assert row["source"], row
    assert accounting["not_counted"] == []
    for total in ("before", "after"):
        assert sum(row[total] for row in accounting["blocks"]) == (
            accounting[total])


@pytest.mark.parametrize("architecture,form", CASES)
def test_rewritten_bytes_are_those_that_stay_alive(analysed, allocated,
                                                   architecture, form):
    _, rewritten, accounting = analysed(architecture, form)
    model = torch.jit.load(str(rewritten)).train()
    x = images().clone()
    model(x)  # the first call lets go of what loading left
    torch.ops.inv.reset_stats()
    gc.collect()
    gc.disable()  # or what earlier tests left would be freed in between
    level = allocated()
    outputs = flat(model(x))
    alive = allocated() - level
    gc.enable()
    alive -= sum(storages(outputs).values())
    said = sum(row["amount"] for row in accounting["kept"]
               if not row["callers"])
    if torch.ops.inv.stats()["kept"] > 0:
        # Where undoing would enlarge errors the runtime keeps a state: the
        # accounting cannot know, and says no more than that steps may.
        assert alive > said
    elif architecture.name.startswith("irevnet"):
        # A bit for each element of a state that has zeros, of the padding.
        states = 2 * accounting["before"] // 8
        assert said < alive <= said + states // 32
    else:
        assert alive == said


class Codec(torch.nn.Module):
    """Two methods, of which one calls the other's layers."""

    def __init__(self):
        super().__init__()
        self.f = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(),
                                     torch.nn.Linear(32, 8))
        self.g = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(),
                                     torch.nn.Linear(32, 8))
        self.head = torch.nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.encode(x)))

    @torch.jit.export
    def encode(self, x):
        a, b = x.chunk(2, dim=1)
        a = a + self.f(b)
        b = b + self.g(a)
        return torch.cat([a, b], dim=1)

    @torch.jit.export
    def mix(self, x, y):
        return torch.sigmoid(x + self.head(torch.tanh(y)))


def test_each_method_has_its_accounting(tmp_path):
    path, report = tmp_path / "codec.pt", tmp_path / "analysis.json"
    torch.jit.script(Codec()).save(str(path))
    subprocess.run([TOOL, path, "-q", "--method=forward", "--method=encode",
                    "--method=mix", "--input=x:f32[4,16]",
                    "--input=mix.x:f32[4,4]", "--input=mix.y:f32[4,16]",
                    f"--analyze-output={report}"], check=True)
    forward, encode, mix = json.loads(report.read_text())["methods"]
    assert [forward["method"], encode["method"], mix["method"]] == [
        "forward", "encode", "mix"]
    assert forward["steps"] == 2 and encode["steps"] >= 2
    model = torch.jit.load(str(path))
    x = torch.randn(4, 16, requires_grad=True)
    narrow = torch.randn(4, 4, requires_grad=True)
    assert forward["before"] == saved_by_autograd(model, x)
    assert encode["before"] == saved_by_autograd(model.encode, x)
    assert mix["before"] == saved_by_autograd(model.mix, narrow, x)


def alive_after(model, x, allocated):
    """Bytes that a call leaves until backward, its output aside."""
    x = x.clone()
    model(x)
    gc.collect()
    gc.disable()
    level = allocated()
    outputs = flat(model(x))
    alive = allocated() - level - sum(storages(outputs).values())
    gc.enable()
    return alive


# Whose loops and branches do not depend on what is drawn.
FIXED = [model for model in [m for m, _ in FOUND] + NEAR
         if model not in (Gated, GatedHalves, Gates)]


@pytest.mark.parametrize("trips", [0, 1, 3])
@pytest.mark.parametrize("model", FIXED)
def test_every_iteration_counts(allocated, tmp_path, model, trips):
    path, report = tmp_path / "model.pt", tmp_path / "analysis.json"
    torch.manual_seed(0)
    torch.jit.script(Fixed(model().double(), trips)).save(str(path))
    subprocess.run([TOOL, path, "-o", tmp_path / "ours.pt", "-q",
                    f"--input=x:f64[4,{WIDTH}]", f"--analyze-output={report}"],
                   check=True)
    accounting = json.loads(report.read_text())["methods"][0]
    x = torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True)
    original = torch.jit.load(str(path))
    assert accounting["before"] == saved_by_autograd(original, x)
    assert accounting["before"] == (
        accounting["dropped"] + accounting["streams"] +
        sum(row["amount"] for row in accounting["kept"]
            if not row["by_step"]))
    kept = sum(row["amount"] for row in accounting["kept"]
               if not row["callers"])
    ours = torch.jit.load(str(tmp_path / "ours.pt"))
    alive = alive_after(ours, x, allocated)
    # Of what leads to no output autograd lets go at once; the accounting has
    # it, since it goes by what is saved.
    unused = saved_by_autograd(original, x) - sum(
        row["amount"] for row in accounting["kept"] if row["callers"]) - (
            alive_after(original, x, allocated))
    assert alive == kept if unused <= 0 else alive <= kept
