"""A reversible transformer on a split dimension (Kitaev et al., 2020).

    y1 = x1 + Attention(x2)    y2 = x2 + FeedForward(y1)

The Reformer: x1 and x2 are the halves of one tensor's features. Attention
shares one projection between queries and keys, and a token does not attend to
itself; the feed-forward layer works on a quarter of the tokens at a time. Full
attention in place of the paper's hashed one: 16 tokens need no buckets.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qk = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def split_heads(self, x):
        batch, tokens, width = x.shape
        x = x.view(batch, tokens, self.heads, width // self.heads)
        return x.transpose(1, 2)

    def forward(self, x):
        batch, tokens, width = x.shape
        x = self.norm(x)
        q, v = self.split_heads(self.qk(x)), self.split_heads(self.v(x))
        k = F.normalize(q, dim=-1)
        scores = torch.einsum("bhid,bhjd->bhij", q, k)
        itself = torch.eye(tokens, device=x.device).to(torch.bool)
        scores = scores.masked_fill(itself, -1e5)
        x = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
        return self.out(x.transpose(1, 2).reshape(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        parts = torch.chunk(self.norm(x), 4, dim=1)
        return torch.cat([self.down(F.gelu(self.up(p))) for p in parts], dim=1)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.f = Attention(width, heads)
        self.g = FeedForward(width)

    def forward(self, x):
        x1, x2 = x.chunk(2, dim=-1)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=-1)


class Reformer(nn.Module):
    def __init__(self, depth, width, heads, classes=10):
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.position = nn.Parameter(0.5 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(
            *[Block(width // 2, heads) for _ in range(depth)])
        common.start_small([block.f.out for block in self.blocks]
                           + [block.g.down for block in self.blocks], depth)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        x = self.blocks(tokens + self.position)
        return self.head(self.norm(x).mean(dim=1))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=12, width=64)
    p.add_argument("--heads", type=int, default=4)
    common.save("reformer", lambda a: Reformer(a.depth, a.width, a.heads),
                p.parse_args())
