"""Small reversible models for the hazard tests, and how to rewrite them."""

import subprocess

import torch
from torch import nn

from conftest import TOOL


class Network(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return self.down(torch.tanh(self.up(self.norm(x))))


class Block(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1)"""

    def __init__(self, f, g):
        super().__init__()
        self.f = f
        self.g = g

    def forward(self, x1, x2):
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return y1, y2


class Chain(nn.Module):
    """Two streams in, two streams out."""

    def __init__(self, make, depth):
        super().__init__()
        self.blocks = nn.ModuleList(Block(make(), make()) for _ in range(depth))

    def forward(self, x1, x2):
        for block in self.blocks:
            x1, x2 = block(x1, x2)
        return x1, x2


class Model(nn.Module):
    """One tensor in, cut in two; one out."""

    def __init__(self, make, depth):
        super().__init__()
        self.chain = Chain(make, depth)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        x1, x2 = self.chain(x1, x2)
        return torch.cat([x1, x2], dim=1)


def rewrite(module, folder, *options, steps=1):
    """The scripted module and its rewritten form, both loaded from archives."""
    original, rewritten = folder / "model.pt", folder / "model.inv.pt"
    torch.jit.script(module).save(str(original))
    subprocess.run([TOOL, original, "-o", rewritten, "-q",
                    f"--require-steps={steps}", *options], check=True)
    return torch.jit.load(str(original)), torch.jit.load(str(rewritten))
