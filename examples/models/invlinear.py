"""A deep MLP of invertible layers, each with its inverse written beside it.

A layer that exports `inverse` beside `forward` says that its input can be
computed back from its output. The inverses compute in float64: what they give
back is then off by one rounding of float32, and not by several for each layer.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class TallLinear(nn.Module):
    """A linear layer with more outputs than inputs, undone by least squares."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.orthogonal_(self.weight)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    @torch.jit.export
    def inverse(self, y):
        inverse = torch.pinverse(self.weight.double())
        return F.linear((y - self.bias).double(), inverse).to(y.dtype)


class SquareLinear(nn.Module):
    """A linear layer with as many outputs as inputs, undone by a solve."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.orthogonal_(self.weight)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    @torch.jit.export
    def inverse(self, y):
        x = torch.linalg.solve(self.weight.double(),
                               (y - self.bias).double().t()).t()
        return x.to(y.dtype)


class InvLeakyReLU(nn.Module):
    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return F.leaky_relu(x, self.slope)

    @torch.jit.export
    def inverse(self, y):
        return F.leaky_relu(y, 1.0 / self.slope)


class InvMlp(nn.Module):
    def __init__(self, depth, width, slope, classes=10):
        super().__init__()
        layers = [TallLinear(64, width), InvLeakyReLU(slope)]
        for _ in range(depth - 1):
            layers += [SquareLinear(width), InvLeakyReLU(slope)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.layers(images.flatten(1)))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=12, width=96)
    p.add_argument("--slope", type=float, default=0.7,
                   help="of the leaky ReLU, for negative inputs")
    common.save("invlinear", lambda a: InvMlp(a.depth, a.width, a.slope),
                p.parse_args())
