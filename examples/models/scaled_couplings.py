"""Couplings with factors on both streams, which change places, for digits.

    y1 = l * x1 + F(x2)    y2 = b * x2 + G(y1)    next block: (y2, y1)

Factors below 1 let the streams forget, as in reversible recurrent networks
(MacKay et al., 2018); undoing a block divides by them again.
"""

import torch
from torch import nn

import common


class Branch(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.act = nn.SiLU()
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return self.down(self.act(self.up(self.norm(x))))


class ScaledCoupling(nn.Module):
    def __init__(self, width, l: float, b: float):
        super().__init__()
        self.l = l
        self.b = b
        self.f = Branch(width)
        self.g = Branch(width)

    def forward(self, x1, x2):
        y1 = self.l * x1 + self.f(x2)
        y2 = self.b * x2 + self.g(y1)
        return y2, y1


class ScaledNet(nn.Module):
    def __init__(self, depth, width, l, b, classes=10):
        super().__init__()
        self.stem = nn.Linear(64, 2 * width)
        self.blocks = nn.ModuleList(
            [ScaledCoupling(width, l, b) for _ in range(depth)])
        common.start_small([branch.down for block in self.blocks
                            for branch in (block.f, block.g)], depth)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images):
        x1, x2 = torch.tensor_split(self.stem(images.flatten(1)), 2, dim=1)
        for block in self.blocks:
            x1, x2 = block(x1, x2)
        return self.head(torch.cat([x1, x2], dim=1))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=32)
    p.add_argument("--lambda", type=float, default=0.9, dest="l",
                   help="factor of the first stream")
    p.add_argument("--beta", type=float, default=0.95,
                   help="factor of the second stream")
    common.save("scaled_couplings",
                lambda a: ScaledNet(a.depth, a.width, a.l, a.beta),
                p.parse_args())
