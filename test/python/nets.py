"""Small reversible models for the hazard tests."""

import torch
from torch import nn

WIDTH = 4


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


class Dropping(Network):
    def __init__(self, width):
        super().__init__(width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.down(self.drop(torch.tanh(self.up(x)))))


def data(rows=5, width=2 * WIDTH):
    return torch.randn(rows, width)
