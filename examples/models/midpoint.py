"""A midpoint residual network (Chang et al., 2018, equation 9) for digits.

    x(n+1) = x(n-1) + 2 h f(x(n)),    x(1) = x(0) + h f(x(0))

f is a layer whose matrix is antisymmetric up to a small damping (the paper's
condition of stability), so that the two-step scheme stays bounded.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class Antisymmetric(nn.Module):
    """tanh(x (W - W^T - damping I)^T + b)"""

    def __init__(self, width, damping):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("damping", damping * torch.eye(width))

    def forward(self, x):
        weight = self.weight - self.weight.t() - self.damping
        return torch.tanh(F.linear(x, weight, self.bias))


class MidpointNet(nn.Module):
    def __init__(self, depth, width, h, classes=10):
        super().__init__()
        self.h = h
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            [Antisymmetric(width, 0.01) for _ in range(depth)])
        self.act = nn.SiLU()
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        last = self.stem(images.flatten(1))
        x = last
        for i, f in enumerate(self.blocks):
            if i == 0:
                x = last + self.h * f(last)
            else:
                last, x = x, last + 2 * self.h * f(x)
        return self.head(self.act(x))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=32, width=64)
    p.add_argument("--h", type=float, default=0.05, help="step size")
    common.save("midpoint", lambda a: MidpointNet(a.depth, a.width, a.h),
                p.parse_args())
