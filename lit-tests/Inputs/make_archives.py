"""Writes the archives that the tool's tests read: make_archives.py FOLDER."""

import sys
import warnings
from pathlib import Path
from typing import Optional

import torch
from torch import nn


class Net(nn.Module):
    """Two linear layers, an optional argument, and a second method."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.register_buffer("offset", torch.arange(4, dtype=torch.float32))

    def forward(self, x, bias: Optional[torch.Tensor] = None):
        for layer in self.layers:
            x = torch.relu(layer(x))
        if bias is not None:
            x = x + bias
        return x + self.offset

    @torch.jit.export
    def double(self, x):
        return x * 2


class Coupling(nn.Module):
    """One additive coupling block: both halves are updated."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)
        self.g = nn.Linear(4, 4)

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        a = a + torch.tanh(self.f(b))
        b = b + torch.tanh(self.g(a))
        return torch.cat([a, b], dim=1)


class CouplingNet(nn.Module):
    """A chain of couplings, with something before and behind it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([Coupling() for _ in range(3)])

    def forward(self, x):
        x = torch.tanh(self.head(x))
        for block in self.blocks:
            x = block(x)
        return x.sum()


class Rotate(nn.Module):
    """Exports an inverse: its call must stay a call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x):
        return torch.matmul(x, self.weight)

    @torch.jit.export
    def inverse(self, y):
        return torch.matmul(y, torch.linalg.inv(self.weight))


class Wrapped(nn.Module):
    """The annotated module lies two levels deep."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), Rotate())

    def forward(self, x):
        return self.inner(x)


class Custom(nn.Module):
    """Calls an operator that only a library has."""

    def forward(self, x):
        return torch.ops.litlib.scale(x)


def damaged(source, target):
    """A copy whose weights have one bit turned."""
    data = bytearray(source.read_bytes())
    # The buffer `offset`: 0, 1, 2, 3 as float32.
    at = data.index(torch.arange(4, dtype=torch.float32).numpy().tobytes())
    data[at + 5] ^= 1
    target.write_bytes(data)


def main(folder):
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    net = torch.jit.script(Net())
    torch.jit.save(net, folder / "net.pt", _extra_files={"note.txt": "keep me"})
    torch.jit.save(torch.jit.script(CouplingNet()), folder / "coupling.pt")
    torch.jit.save(torch.jit.script(Wrapped()), folder / "annotated.pt")
    traced = torch.jit.trace(CouplingNet(), torch.randn(2, 8))
    torch.jit.save(traced, folder / "traced.pt")
    torch.save(Net().state_dict(), folder / "weights.pt")
    data = (folder / "net.pt").read_bytes()
    (folder / "truncated.pt").write_bytes(data[: len(data) // 2])
    damaged(folder / "net.pt", folder / "damaged.pt")
    library = torch.library.Library("litlib", "DEF")
    library.define("scale(Tensor x) -> Tensor")
    torch.jit.save(torch.jit.script(Custom()), folder / "custom.pt")


main(Path(sys.argv[1]))
