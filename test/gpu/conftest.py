"""Loads the runtime that INVOPT_RUNTIME names (a folder), once."""

import os
import pathlib

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session", autouse=True)
def runtime():
    if not torch.cuda.is_available():
        pytest.skip("no GPU", allow_module_level=True)
    folder = pathlib.Path(os.environ.get("INVOPT_RUNTIME", ROOT / "build/lib"))
    torch.ops.load_library(str(folder / "libinv_runtime.so"))


@pytest.fixture
def model_folder():
    return pathlib.Path(os.environ.get("INVOPT_MODELS", ROOT / "gpu-models"))
