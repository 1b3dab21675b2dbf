"""A deep MLP of additive couplings: equal blocks, for curves over depth.

With --shared all blocks are one, in a loop: scripted, a loop that stays one.
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


class Coupling(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.f = Branch(width // 2)
        self.g = Branch(width // 2)

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=-1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=-1)


class RevMlp(nn.Module):
    def __init__(self, depth, width, classes=10):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(*[Coupling(width) for _ in range(depth)])
        common.start_small([branch.down for block in self.blocks
                            for branch in (block.f, block.g)], depth)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.blocks(self.stem(images.flatten(1)))
        return self.head(self.norm(x))


class SharedRevMlp(nn.Module):
    def __init__(self, depth, width, classes=10):
        super().__init__()
        self.depth = depth
        self.stem = nn.Linear(64, width)
        self.block = Coupling(width)
        common.start_small([self.block.f.down, self.block.g.down], depth)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        x = self.stem(images.flatten(1))
        for _ in range(self.depth):
            x = self.block(x)
        return self.head(self.norm(x))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=32, width=64)
    p.add_argument("--shared", action="store_true",
                   help="one block, used `depth` times")
    args = p.parse_args()
    net = SharedRevMlp if args.shared else RevMlp
    common.save("revmlp", lambda a: net(a.depth, a.width), args)
