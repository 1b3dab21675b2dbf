"""A plain residual network for 8x8 digits.

Nothing in it can be undone: `x + F(x)` does not give `x` back. inv-opt leaves
it as it is, and its remarks say why.
"""

import torch
from torch import nn

import common


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        f = self.conv1(torch.relu(self.norm1(x)))
        f = self.conv2(torch.relu(self.norm2(f)))
        return x + f


class ResNet(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*[ResBlock(channels) for _ in range(depth)])
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images))
        x = torch.relu(self.norm(x)).mean(dim=[2, 3])
        return self.head(x)


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=8, width=24)
    common.save("resnet", lambda a: ResNet(a.depth, a.width), p.parse_args())
