"""A chain of affine couplings (RealNVP, Dinh et al., 2017) for 8x8 digits.

Each block scales one half of the channels by exp(tanh(s)) and shifts it by t;
s and t are made from the other half by a small convolutional network. The
halves take turns. The scale lies between 1/e and e, so that it can be divided
out again. The log-determinant is summed along the chain, and a small multiple
of it is added to the class scores, as a flow's loss would.
"""

import torch
from torch import nn

import common


class ScaleAndShift(nn.Module):
    """3x3 convolution, SiLU, 3x3 convolution to twice the channels."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(x)))


class AffineCoupling(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.net = ScaleAndShift(channels // 2)

    def forward(self, x1, x2):
        s, t = torch.chunk(self.net(x1), 2, dim=1)
        s = torch.tanh(s)
        y2 = x2 * torch.exp(s) + t
        return y2, x1, s.sum(dim=[1, 2, 3])


class RealNVP(nn.Module):
    def __init__(self, depth, channels, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            [AffineCoupling(channels) for _ in range(depth)])
        common.start_small([block.net.conv2 for block in self.blocks], depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x1, x2 = torch.chunk(self.stem(images), 2, dim=1)
        log_det = torch.zeros_like(images[:, 0, 0, 0])
        for block in self.blocks:
            x1, x2, change = block(x1, x2)
            log_det = log_det + change
        x = torch.cat([x1, x2], dim=1)
        scores = self.head(self.act(x).mean(dim=[2, 3]))
        return scores + 0.001 * log_det.unsqueeze(1)


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=32, width=32)
    common.save("realnvp", lambda a: RealNVP(a.depth, a.width), p.parse_args())
