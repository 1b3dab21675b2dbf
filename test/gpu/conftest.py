"""Loads the runtime that INVOPT_RUNTIME names (a folder), once. INVOPT_DEVICE
(default cuda) is where the tests compute; with cpu those that need no GPU show
that they themselves are right."""

import os
import pathlib
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "test/python"))
DEVICE = os.environ.get("INVOPT_DEVICE", "cuda")
NEEDS_GPU = "kernels on a GPU, its streams, graphs or generator"


def pytest_configure(config):
    config.addinivalue_line("markers", f"gpu: {NEEDS_GPU}")


def pytest_collection_modifyitems(items):
    if DEVICE == "cuda" and torch.cuda.is_available():
        return
    for item in items:
        if DEVICE == "cuda" or item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(scope="session", autouse=True)
def runtime():
    folder = pathlib.Path(os.environ.get("INVOPT_RUNTIME", ROOT / "build/lib"))
    torch.ops.load_library(str(folder / "libinv_runtime.so"))


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def model_folder():
    return pathlib.Path(os.environ.get("INVOPT_MODELS", ROOT / "gpu-models"))
