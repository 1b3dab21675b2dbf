"""Invertible down-sampling between stages of couplings, for 8x8 digits.

Three stages of `depth` couplings, y1 = x1 + F(x2), y2 = x2 + G(y1); between the
first two pixel_unshuffle, between the last two a Haar wavelet transform, either
by lifting (Sweldens, 1996), along columns and then along rows,

    high = odd - even    low = even + high / 2

or as a convolution of stride 2 with the four constant filters (--haar conv), as
invertible networks for images have it (Ardizzone et al., 2019).
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class HaarLifting(nn.Module):
    def forward(self, x):
        even, odd = x[:, :, :, ::2], x[:, :, :, 1::2]
        high = odd - even
        low = even + high / 2
        x = torch.cat([low, high], dim=1)
        even, odd = x[:, :, ::2], x[:, :, 1::2]
        high = odd - even
        low = even + high / 2
        return torch.cat([low, high], dim=1)


class HaarConv(nn.Module):
    def __init__(self, channels):
        super().__init__()
        filters = 0.5 * torch.tensor([[[1., 1.], [1., 1.]],
                                      [[1., -1.], [1., -1.]],
                                      [[1., 1.], [-1., -1.]],
                                      [[1., -1.], [-1., 1.]]])
        self.channels = channels
        self.register_buffer("filters", filters.to(torch.get_default_dtype())
                             .unsqueeze(1).repeat(channels, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.filters, stride=2, groups=self.channels)


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


class DownNet(nn.Module):
    def __init__(self, depth, channels, haar, classes=10):
        super().__init__()

        def stage(width):
            return [Coupling(width) for _ in range(depth)]

        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        wavelet = HaarLifting() if haar == "lifting" else HaarConv(4 * channels)
        self.blocks = nn.Sequential(
            *stage(channels), nn.PixelUnshuffle(2), *stage(4 * channels),
            wavelet, *stage(16 * channels))
        common.start_small([branch.conv2 for block in self.blocks
                            if isinstance(block, Coupling)
                            for branch in (block.f, block.g)], 3 * depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(16 * channels, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images))
        return self.head(self.act(x).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=4, width=4)
    p.add_argument("--haar", choices=["lifting", "conv"], default="lifting")
    common.save("downsample", lambda a: DownNet(a.depth, a.width, a.haar),
                p.parse_args())
