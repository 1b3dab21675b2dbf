"""Patchwise convolutions between stages of couplings, for 8x8 digits.

A convolution whose kernel is as large as its stride maps each patch of the
image by one matrix; with as many outputs as the patch has values it can be
undone, and takes the place of space-to-depth and the 1x1 convolution behind it.
Between the two patchwise convolutions, and behind the second, `depth` couplings

    y1 = x1 + F(x2)    y2 = x2 + G(y1)
"""

import torch
from torch import nn

import common


class PatchConv(nn.Module):
    """Kernel 2, stride 2, orthogonal at the start."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, kernel_size=2, stride=2)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x):
        return self.conv(x)


class ConvBranch(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(self.act(x))))


class Coupling(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.f = ConvBranch(channels // 2)
        self.g = ConvBranch(channels // 2)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=1)


class PatchNet(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.act = nn.SiLU()
        blocks = []
        for _ in range(2):
            blocks.append(PatchConv(channels))
            channels *= 4
            blocks += [Coupling(channels) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        common.start_small([branch.conv2 for block in self.blocks
                            if isinstance(block, Coupling)
                            for branch in (block.f, block.g)], 2 * depth)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.act(self.stem(images)))
        return self.head(self.act(x).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=8, width=4)
    common.save("patchconv", lambda a: PatchNet(a.depth, a.width),
                p.parse_args())
