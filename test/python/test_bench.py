"""The benchmark measures what it says: every algorithm computes the right
gradients, and evaluates the branches as often as the library it stands for."""

import json
import subprocess
import sys

import pytest

from conftest import ROOT, TOOL

BENCH = TOOL.parent / "inv-bench"
DEPTH = 4
COUPLING = ["plain", "checkpoint", "memcnn", "revtorch", "invert", "recompute",
            "store"]


def measure(folder, kind, sizes, algorithms):
    original, rewritten = folder / f"{kind}.pt", folder / f"{kind}.inv.pt"
    subprocess.run([sys.executable, ROOT / "benchmarks/models.py", kind,
                    "--out", original, "--depth", str(DEPTH), "--width", "16"],
                   check=True)
    subprocess.run([TOOL, original, "-o", rewritten, "-q",
                    "--require-steps=1"], check=True)
    out = subprocess.run(
        [BENCH, "train", "--original", original, "--rewritten", rewritten,
         "--input", ",".join(map(str, sizes)), "--steps", "1",
         "--algorithms", ",".join(algorithms)],
        check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)["algorithms"]


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("bench"), "mlp", [64, 16], COUPLING)


@pytest.mark.parametrize("algorithm", COUPLING)
def test_gradients_are_right(mlp, algorithm):
    assert mlp[algorithm]["gradient_error"] < 5e-6
    assert mlp[algorithm]["forward_bit_equal"]


@pytest.mark.parametrize("algorithm, each", [
    ("checkpoint", 2), ("revtorch", 2), ("invert", 2), ("recompute", 2),
    ("store", 1)])
def test_branches_are_evaluated(mlp, algorithm, each):
    assert mlp[algorithm]["evaluations"] == each * 2 * DEPTH


def test_memcnn_evaluates_three_times(mlp):
    # The first block keeps its input and is not undone.
    assert mlp["memcnn"]["evaluations"] == 3 * 2 * DEPTH - 2


def test_peaks_are_in_order(mlp):
    peaks = [mlp[a]["peak_bytes"] for a in ("invert", "memcnn", "plain")]
    assert peaks == sorted(peaks) and len(set(peaks)) == 3


@pytest.mark.parametrize("kind, sizes", [
    ("conv", [2, 3, 6, 6]), ("transformer", [2, 5, 16])])
def test_other_networks(tmp_path, kind, sizes):
    result = measure(tmp_path, kind, sizes, ["plain", "memcnn", "revtorch",
                                             "invert"])
    for name, one in result.items():
        assert one["gradient_error"] < 2e-5, name


def test_linear_layers(tmp_path):
    result = measure(tmp_path, "linear", [32, 16],
                     ["plain", "checkpoint", "pinverse", "invert"])
    for name, one in result.items():
        assert one["gradient_error"] < 2e-5, name
