"""Additive couplings on interleaved features, for 8x8 digits.

    x1 = x[..., ::2]    x2 = x[..., 1::2]
    y1 = x1 + F(x2)     y2 = x2 + G(y1)

put back where they were by stack and flatten: neighbouring features, as the
pairs of rotary embeddings, are coupled.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class Branch(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))


class Interleaved(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.f = Branch(width // 2)
        self.g = Branch(width // 2)

    def forward(self, x):
        x1, x2 = x[..., ::2], x[..., 1::2]
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.stack([y1, y2], dim=-1).flatten(-2)


class InterleavedNet(nn.Module):
    def __init__(self, depth, width, classes=10):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(
            *[Interleaved(width) for _ in range(depth)])
        common.start_small([branch.down for block in self.blocks
                            for branch in (block.f, block.g)], depth)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images.flatten(1)))
        return self.head(self.norm(x))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=64)
    common.save("interleaved", lambda a: InterleavedNet(a.depth, a.width),
                p.parse_args())
