"""A reversible graph network of grouped couplings (Li et al., 2021).

The features of each node are split into N groups, and

    y0 = x2 + ... + xN    yi = xi + fi(y(i-1), A),  i = 1, ..., N

(equations 5 and 6). The 64 pixels are the nodes, joined to their neighbours; A
is the normalised adjacency matrix, a constant.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


def grid(size):
    """D^-1/2 (A + I) D^-1/2 of a grid of size x size pixels."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1)
    near = (places[:, None] - places[None]).abs().sum(dim=2) <= 1
    degree = near.sum(dim=1).to(torch.get_default_dtype())
    return near / (degree[:, None] * degree[None]).sqrt()


class GraphConv(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, width)

    def forward(self, x, adjacency):
        x = self.dropout(F.relu(self.norm(x)))
        return torch.matmul(adjacency, self.linear(x))


class GroupedCoupling(nn.Module):
    def __init__(self, width, groups, dropout):
        super().__init__()
        self.groups = groups
        self.f = nn.ModuleList([GraphConv(width // groups, dropout)
                                for _ in range(groups)])

    def forward(self, x, adjacency):
        xs = torch.chunk(x, self.groups, dim=-1)
        y = xs[1]
        for i in range(2, self.groups):
            y = y + xs[i]
        ys = []
        for i, f in enumerate(self.f):
            y = xs[i] + f(y, adjacency)
            ys.append(y)
        return torch.cat(ys, dim=-1)


class RevGNN(nn.Module):
    def __init__(self, depth, width, groups, dropout, classes=10):
        super().__init__()
        self.register_buffer("adjacency", grid(8))
        self.stem = nn.Linear(1, width)
        self.position = nn.Parameter(0.5 * torch.randn(64, width))
        self.blocks = nn.ModuleList(
            [GroupedCoupling(width, groups, dropout) for _ in range(depth)])
        common.start_small([f.linear for block in self.blocks
                            for f in block.f], depth)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        nodes = images.flatten(1).unsqueeze(-1)
        x = self.stem(nodes) + self.position
        for block in self.blocks:
            x = block(x, self.adjacency)
        return self.head(F.relu(self.norm(x)).mean(dim=1))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=8, width=32)
    p.add_argument("--groups", type=int, default=4)
    p.add_argument("--dropout", type=float, default=0.1)
    common.save("revgnn",
                lambda a: RevGNN(a.depth, a.width, a.groups, a.dropout),
                p.parse_args())
