"""A reversible vision transformer (Mangalam et al., 2022) for 8x8 digits.

Two streams of tokens go from block to block: attention reads the second and
is added to the first, then an MLP reads the first and is added to the second.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class Attention(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x))
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        weights = self.dropout(scores.softmax(dim=-1))
        x = (weights @ v).transpose(1, 2).reshape(batch, tokens, width)
        return self.dropout(self.out(x))


class Mlp(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = self.dropout(F.gelu(self.up(self.norm(x))))
        return self.dropout(self.down(x))


class RevBlock(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.f = Attention(width, heads, dropout)
        self.g = Mlp(width, dropout)

    def forward(self, x1, x2):
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return y1, y2


class RevViT(nn.Module):
    def __init__(self, depth, width, heads, dropout, classes=10):
        super().__init__()
        self.patches = nn.Conv2d(1, 2 * width, kernel_size=2, stride=2)
        self.position = nn.Parameter(0.5 * torch.randn(1, 16, 2 * width))
        self.blocks = nn.ModuleList(
            [RevBlock(width, heads, dropout) for _ in range(depth)])
        common.start_small([block.f.out for block in self.blocks]
                           + [block.g.down for block in self.blocks], depth)
        self.norm = nn.LayerNorm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        x1, x2 = torch.chunk(tokens + self.position, 2, dim=-1)
        for block in self.blocks:
            x1, x2 = block(x1, x2)
        x = self.norm(torch.cat([x1, x2], dim=-1))
        return self.head(x.mean(dim=1))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=12, width=32)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--dropout", type=float, default=0.1)
    common.save("revvit",
                lambda a: RevViT(a.depth, a.width, a.heads, a.dropout),
                p.parse_args())
