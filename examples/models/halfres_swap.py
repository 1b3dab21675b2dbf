"""Half-residual blocks whose streams change places, for 8x8 digits.

    y1 = x2    y2 = x1 + F(x2)

the i-RevNet block (Jacobsen et al., 2018) without changes of resolution, and
one half of a Feistel network: each block updates one stream only.
"""

import torch
from torch import nn

import common


class ConvBranch(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(self.norm(x))))


class HalfResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.f = ConvBranch(channels // 2)

    def forward(self, x):
        x1, x2 = x.chunk(2, 1)
        x1 = x1 + self.f(x2)
        return torch.cat((x2, x1), dim=1)


class HalfResNet(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(
            *[HalfResidual(channels) for _ in range(depth)])
        common.start_small([block.f.conv2 for block in self.blocks], depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images))
        return self.head(self.act(x).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=32, width=32)
    common.save("halfres_swap", lambda a: HalfResNet(a.depth, a.width),
                p.parse_args())
