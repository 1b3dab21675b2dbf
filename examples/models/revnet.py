"""A reversible residual network (Gomez et al., 2017) for 8x8 digits.

Each block splits its channels into halves and adds to each half a small
convolutional network of the other. SiLU by default: it is smooth. ReLU has a
jump in its derivative, so that one rounding, wherever it comes from, can change
a gradient visibly (float32 and float64 runs of the plain network then differ by
up to several percent).
"""

import torch
from torch import nn

import common


ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}


class ConvBranch(nn.Module):
    """BatchNorm, activation, 3x3 convolution, twice."""

    def __init__(self, channels, activation):
        super().__init__()
        self.act = ACTIVATIONS[activation]()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.conv1(self.act(self.norm1(x)))
        return self.conv2(self.act(self.norm2(x)))


class RevBlock(nn.Module):
    def __init__(self, channels, activation):
        super().__init__()
        self.f = ConvBranch(channels // 2, activation)
        self.g = ConvBranch(channels // 2, activation)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=1)


class RevNet(nn.Module):
    def __init__(self, depth, channels, activation, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            *[RevBlock(channels, activation) for _ in range(depth)])
        common.start_small([branch.conv2 for block in self.blocks
                            for branch in (block.f, block.g)], depth)
        self.act = ACTIVATIONS[activation]()
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images))
        x = self.act(self.norm(x)).mean(dim=[2, 3])
        return self.head(x)


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=32)
    p.add_argument("--activation", choices=list(ACTIVATIONS), default="silu")
    common.save("revnet", lambda a: RevNet(a.depth, a.width, a.activation),
                p.parse_args())
