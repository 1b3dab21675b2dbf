"""A Hamiltonian residual network, by leapfrog (Chang et al., 2018, equation 8).

    q' = q + h K1^T act(K1 p + b1)    p' = p - h K2^T act(K2 q' + b2)

K1 and K2 are 3x3 convolutions, their transposes share the weights. With
--shared all blocks are one, in a loop: scripted, a loop that stays one.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class Force(nn.Module):
    """K^T act(K x + b)"""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = torch.tanh(F.conv2d(x, self.weight, self.bias, padding=1))
        return F.conv_transpose2d(x, self.weight, padding=1)


class Leapfrog(nn.Module):
    def __init__(self, channels, h):
        super().__init__()
        self.h = h
        self.f = Force(channels)
        self.g = Force(channels)

    def forward(self, p, q):
        q = q + self.h * self.f(p)
        p = p - self.h * self.g(q)
        return p, q


class Ends(nn.Module):
    """From images to two states, and from these to class scores."""

    def __init__(self, channels, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, 2 * channels, 3, padding=1)
        self.act = nn.SiLU()
        self.head = nn.Linear(2 * channels, classes)

    def first(self, images):
        p, q = torch.chunk(self.stem(images), 2, dim=1)
        return p, q

    def last(self, p, q):
        x = self.act(torch.cat([p, q], dim=1))
        return self.head(x.mean(dim=[2, 3]))


class HamiltonianNet(Ends):
    def __init__(self, depth, channels, h, classes=10):
        super().__init__(channels, classes)
        self.blocks = nn.ModuleList(
            [Leapfrog(channels, h) for _ in range(depth)])

    def forward(self, images):
        p, q = self.first(images)
        for block in self.blocks:
            p, q = block(p, q)
        return self.last(p, q)


class SharedHamiltonianNet(Ends):
    def __init__(self, depth, channels, h, classes=10):
        super().__init__(channels, classes)
        self.depth = depth
        self.block = Leapfrog(channels, h)

    def forward(self, images):
        p, q = self.first(images)
        for _ in range(self.depth):
            p, q = self.block(p, q)
        return self.last(p, q)


if __name__ == "__main__":
    parser = common.parser(__doc__.splitlines()[0], depth=16, width=16)
    parser.add_argument("--h", type=float, default=0.1, help="step size")
    parser.add_argument("--shared", action="store_true",
                        help="one block, used `depth` times")
    args = parser.parse_args()
    net = SharedHamiltonianNet if args.shared else HamiltonianNet
    common.save("leapfrog", lambda a: net(a.depth, a.width, a.h), args)
