"""A partially reversible U-Net (Brügger et al., 2019) for 8x8 digits.

At each resolution a sequence of `depth` reversible blocks,

    y1 = x1 + F(x2)    y2 = x2 + G(y1)

on the way down and again on the way up. Between resolutions: max-pooling and a
1x1 convolution down, bilinear interpolation and a 1x1 convolution up. The state
at the end of each level is added on the way back (skip connection).
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class ConvBranch(nn.Module):
    """GroupNorm, leaky ReLU, 3x3 convolution."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(2, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.leaky_relu(self.norm(x)))


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


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x):
        return self.conv(F.max_pool2d(x, 2))


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x, skip):
        x = F.interpolate(self.conv(x), scale_factor=2.0, mode="bilinear",
                          align_corners=False)
        return x + skip


class RevUNet(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()

        def level(width):
            return nn.Sequential(*[RevBlock(width) for _ in range(depth)])

        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.encode = nn.ModuleList([level(channels), level(2 * channels)])
        self.down = nn.ModuleList([Down(channels), Down(2 * channels)])
        self.bottom = level(4 * channels)
        self.up = nn.ModuleList([Up(2 * channels), Up(channels)])
        self.decode = nn.ModuleList([level(2 * channels), level(channels)])
        common.start_small([branch.conv for module in self.modules()
                            if isinstance(module, RevBlock)
                            for branch in (module.f, module.g)], 5 * depth)
        self.norm = nn.GroupNorm(2, channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.stem(images)
        skips = []
        for level, down in zip(self.encode, self.down):
            x = level(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for level, up in zip(self.decode, self.up):
            x = level(up(x, skips.pop()))
        return self.head(F.leaky_relu(self.norm(x)).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=4, width=16)
    common.save("revunet", lambda a: RevUNet(a.depth, a.width), p.parse_args())
