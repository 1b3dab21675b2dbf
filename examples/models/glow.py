"""A Glow-like network (Kingma and Dhariwal, 2018) for 8x8 digits.

Each block: ActNorm (a learnt shift and scale per channel), a 1x1 convolution
that mixes the channels, and an affine coupling with scale sigmoid(s + 2).
Space-to-depth before the first block gives the channels.
"""

import torch
from torch import nn

import common


class ActNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x):
        return (x + self.bias) * torch.exp(self.logs)


class Mix(nn.Module):
    """1x1 convolution, orthogonal at the start."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(
            torch.linalg.qr(torch.randn(channels, channels))[0]
            .reshape(channels, channels, 1, 1).contiguous())

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight)


class AffineCoupling(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.conv1 = nn.Conv2d(channels // 2, hidden, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        s, t = torch.chunk(self.conv2(self.act(self.conv1(x1))), 2, dim=1)
        y2 = (x2 + t) * torch.sigmoid(s + 2.0)
        return torch.cat([x1, y2], dim=1)


class Glow(nn.Module):
    def __init__(self, depth, hidden, channels=16, classes=10):
        super().__init__()
        self.squeeze = nn.PixelUnshuffle(2)
        self.stem = nn.Conv2d(4, channels, 1)
        self.blocks = nn.Sequential()
        couplings = []
        for i in range(depth):
            couplings.append(AffineCoupling(channels, hidden))
            self.blocks.append(nn.Sequential(ActNorm(channels), Mix(channels),
                                             couplings[-1]))
        common.start_small([c.conv2 for c in couplings], depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(self.squeeze(images)))
        return self.head(self.act(x).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=32)
    common.save("glow", lambda a: Glow(a.depth, a.width), p.parse_args())
