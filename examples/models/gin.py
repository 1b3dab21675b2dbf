"""Affine couplings with soft clamping and a fixed permutation, for digits.

The block that libraries of flows (FrEIA's AllInOneBlock) are made of:

    y2 = x2 * scale(s(x1)) + t(x1)
    y  = (concatenation of x1 and y2) * softplus(a) + b, then permuted

`scale` keeps the factor in bounds: exp(c * 2/pi * atan(s)) (Ardizzone et al.,
2019), exp(c * tanh(s)), or sigmoid(s + 2) (Glow). For GIN (Sorrenson et al.,
2020) the mean of s is subtracted before the exponential, so that the
determinant of the coupling is 1.
"""

import math

import torch
from torch import nn

import common


class Atan(nn.Module):
    def __init__(self, bound: float = 1.0):
        super().__init__()
        self.bound = bound * 2 / math.pi

    def forward(self, s):
        return torch.exp(self.bound * torch.atan(s))


class Tanh(nn.Module):
    def __init__(self, bound: float = 1.0):
        super().__init__()
        self.bound = bound

    def forward(self, s):
        return torch.exp(self.bound * torch.tanh(s))


class Sigmoid(nn.Module):
    def forward(self, s):
        return torch.sigmoid(s + 2)


class VolumePreserving(nn.Module):
    def __init__(self, bound: float = 1.0):
        super().__init__()
        self.bound = bound * 2 / math.pi

    def forward(self, s):
        s = self.bound * torch.atan(s)
        return torch.exp(s - s.mean(dim=1, keepdim=True))


CLAMPS = {"atan": Atan, "tanh": Tanh, "sigmoid": Sigmoid,
          "gin": VolumePreserving}


class Network(nn.Module):
    def __init__(self, inputs, outputs, hidden):
        super().__init__()
        self.up = nn.Linear(inputs, hidden)
        self.act = nn.SiLU()
        self.down = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    def __init__(self, width, hidden, clamp):
        super().__init__()
        self.sizes = [width // 2, width - width // 2]
        self.net = Network(self.sizes[0], 2 * self.sizes[1], hidden)
        self.factor = CLAMPS[clamp]()
        # softplus of it is 1.
        self.scale = nn.Parameter(torch.full((width,), math.log(math.e - 1)))
        self.offset = nn.Parameter(torch.zeros(width))
        self.register_buffer("permutation", torch.randperm(width))

    def forward(self, x):
        x1, x2 = torch.split(x, self.sizes, dim=1)
        s, t = torch.chunk(self.net(x1), 2, dim=1)
        y = torch.cat([x1, x2 * self.factor(s) + t], dim=1)
        y = y * nn.functional.softplus(self.scale) + self.offset
        return y[:, self.permutation]


class Flow(nn.Module):
    def __init__(self, depth, width, clamp, classes=10):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(
            *[Block(width, 2 * width, clamp) for _ in range(depth)])
        common.start_small([block.net.down for block in self.blocks], depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images.flatten(1)))
        return self.head(self.act(x))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=48)
    p.add_argument("--clamp", choices=list(CLAMPS), default="gin")
    common.save("gin", lambda a: Flow(a.depth, a.width, a.clamp),
                p.parse_args())
