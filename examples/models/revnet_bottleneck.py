"""A RevNet of bottleneck blocks (Gomez et al., 2017, section 3.1) for digits.

    y1 = x1 + F(x2)    y2 = x2 + G(y1)

F and G are pre-activation bottlenecks: a 1x1 convolution to fewer channels, a
3x3 convolution, a 1x1 convolution back. SiLU in place of ReLU, see revnet.py.
"""

import torch
from torch import nn

import common


class Bottleneck(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(hidden)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x):
        x = self.reduce(self.act(self.norm1(x)))
        x = self.conv(self.act(self.norm2(x)))
        return self.expand(self.act(self.norm3(x)))


class RevBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.f = Bottleneck(channels // 2, channels // 4)
        self.g = Bottleneck(channels // 2, channels // 4)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=1)


class RevNet(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*[RevBlock(channels) for _ in range(depth)])
        common.start_small([branch.expand for block in self.blocks
                            for branch in (block.f, block.g)], depth)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.SiLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images))
        return self.head(self.act(self.norm(x)).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=32)
    common.save("revnet_bottleneck", lambda a: RevNet(a.depth, a.width),
                p.parse_args())
