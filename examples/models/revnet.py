"""A reversible residual network (Gomez et al., 2017) for 8x8 digits.

Each block splits its channels into halves and adds to each half a small
convolutional network of the other.
"""

import torch
from torch import nn

import common


class ConvBranch(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice."""

    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.conv1(torch.relu(self.norm1(x)))
        return self.conv2(torch.relu(self.norm2(x)))


class RevBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.f = ConvBranch(channels // 2)
        self.g = ConvBranch(channels // 2)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=1)


class RevNet(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*[RevBlock(channels) for _ in range(depth)])
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images))
        x = torch.relu(self.norm(x)).mean(dim=[2, 3])
        return self.head(x)


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=32)
    common.save("revnet", lambda a: RevNet(a.depth, a.width), p.parse_args())
