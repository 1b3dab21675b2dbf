"""Where the built tool and library are, and archives to test with."""

import gc
import os
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("INVOPT_BIN", ROOT / "build/bin")) / "inv-opt"
LIBRARIES = pathlib.Path(os.environ.get("INVOPT_RUNTIME", ROOT / "build/lib"))
LIBRARY = LIBRARIES / "libinv_runtime.so"

# Model, options, how many steps inv-opt finds in it: two for each block, and
# the last cat. At width 8 revnet's head has more outputs than inputs and is
# one too.
MODELS = {
    "revnet": (["--depth", "3", "--width", "8"], 8),
    "revvit": (["--depth", "2", "--width", "16"], 5),
    "revmlp": (["--depth", "4", "--width", "32"], 9),
    "invlinear": (["--depth", "3", "--width", "72"], 6),
    # One affine coupling a block; the log-determinant is a side output.
    "realnvp": (["--depth", "4", "--width", "8"], 5),
    # A block: ActNorm, 1x1 convolution, split, coupling (the join goes with the
    # next ActNorm); at the ends the stem and the last join.
    "glow": (["--depth", "4", "--width", "8"], 18),
}
# One in which there is nothing to find: a head with fewer outputs than inputs.
PLAIN = {"resnet": (["--depth", "2", "--width", "12"], 0)}
FORMS = ["scripted", "traced"]


def pytest_configure(config):
    for file in (TOOL, LIBRARY):
        if not file.exists():
            pytest.exit(f"{file} is not built (INVOPT_BIN, INVOPT_RUNTIME)", 2)
    torch.ops.load_library(str(LIBRARY))
    # From its second call on, the profiling executor runs other formulas.
    torch._C._set_graph_executor_optimize(False)


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """archives(name, form, dtype) gives the original's and rewritten's path."""
    folder = tmp_path_factory.mktemp("models")
    made = set()

    def get(name, form, dtype="float32"):
        stem = f"{name}.{dtype}"
        if stem not in made:
            options, _ = (MODELS | PLAIN)[name]
            subprocess.run([sys.executable, ROOT / f"examples/models/{name}.py",
                            "--out", folder, "--name", stem, "--dtype", dtype,
                            *options], check=True)
            made.add(stem)
        original = folder / f"{stem}.{form}.pt"
        rewritten = folder / f"{stem}.{form}.inv.pt"
        if not rewritten.exists():
            subprocess.run([TOOL, original, "-o", rewritten, "-q"], check=True)
        return str(original), str(rewritten)

    return get


@pytest.fixture
def hazard():
    """float64, and no step's node, record or slot is left afterwards."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    gc.collect()  # what Python's own hooks tied into a circle
    stats = torch.ops.inv.stats()
    left = {name: stats[f"live_{name}"] for name in ("nodes", "records", "slots")}
    assert not any(left.values()), left


@pytest.fixture
def pair(hazard, tmp_path):
    """A small reversible model and its rewritten form."""
    from compare import both
    from nets import WIDTH, Model, Network
    return both(Model(lambda: Network(WIDTH), 3), tmp_path, steps=6)
