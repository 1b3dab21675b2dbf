"""A residual flow (Behrmann et al., 2019; Chen et al., 2019) for digits.

    y = x + g(x),    x = lim of x <- y - g(x)

g contracts: each of its weights is scaled in forward such that a bound of its
spectral norm, sqrt(|W|_1 |W|_inf), is at most 0.7. Nothing in the graph proves
that; the block therefore exports `inverse`, the fixed-point iteration, beside
`forward`. It iterates in float64, until nothing moves any more.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


def contract(weight, bound: float):
    size = weight.abs()
    norm = (size.sum(dim=0).max() * size.sum(dim=1).max()).sqrt()
    return weight * (bound / norm).clamp(max=1.0)


def residual(x, w1, b1, w2, b2):
    """g, with LipSwish: silu(x) / 1.1 has slopes of at most 1."""
    return F.linear(F.silu(F.linear(x, w1, b1)) / 1.1, w2, b2)


class ResidualFlowBlock(nn.Module):
    def __init__(self, width, bound: float):
        super().__init__()
        self.bound = bound
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x):
        w1 = contract(self.up.weight, self.bound)
        w2 = contract(self.down.weight, self.bound)
        return x + residual(x, w1, self.up.bias, w2, self.down.bias)

    @torch.jit.export
    def inverse(self, y):
        w1 = contract(self.up.weight.double(), self.bound)
        w2 = contract(self.down.weight.double(), self.bound)
        b1, b2 = self.up.bias.double(), self.down.bias.double()
        target = y.double()
        x = target
        for _ in range(100):
            before = x
            x = target - residual(x, w1, b1, w2, b2)
            if torch.allclose(x, before, rtol=1e-15, atol=1e-15):
                break
        return x.to(y.dtype)


class ResidualFlow(nn.Module):
    def __init__(self, depth, width, bound, classes=10):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(
            *[ResidualFlowBlock(width, bound) for _ in range(depth)])
        self.act = nn.SiLU()
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images.flatten(1)))
        return self.head(self.act(x))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=8, width=48)
    p.add_argument("--bound", type=float, default=0.7,
                   help="of each weight's spectral norm")
    common.save("residual_flow",
                lambda a: ResidualFlow(a.depth, a.width, a.bound),
                p.parse_args())
