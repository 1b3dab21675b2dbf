"""The networks that inv-bench measures, saved as TorchScript.

    python benchmarks/models.py KIND --out FILE.pt [--depth N] [--width W]

Every network is `head(blocks(stem(x)))`. Blocks of couplings have two branches,
`f` and `g`, of which each takes one half of the channels and returns as much:
so the algorithms that inv-bench compares with (checkpoint, MemCNN, RevTorch) can
be run on the very same modules. The networks know nothing of inv-opt.
"""

import argparse
import pathlib

import torch
import torch.nn.functional as F
from torch import nn


class ConvBranch(nn.Module):
    """BatchNorm, SiLU, 3x3 convolution, twice: RevNet's basic block."""

    def __init__(self, channels):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.conv1(F.silu(self.norm1(x)))
        return self.conv2(F.silu(self.norm2(x)))


class Attention(nn.Module):
    def __init__(self, width, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, t, w = x.size(0), x.size(1), x.size(2)
        q, k, v = self.qkv(self.norm(x)).view(
            n, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        a = torch.softmax(q @ k.transpose(-2, -1) * (q.size(-1) ** -0.5), -1)
        return self.out((a @ v).transpose(1, 2).reshape(n, t, w))


class MlpBranch(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))


class TinyBranch(nn.Module):
    """As little work as a branch can do: what is left is the cost of a step."""

    def forward(self, x):
        return torch.neg(x)


class Coupling(nn.Module):
    def __init__(self, f, g, dim: int):
        super().__init__()
        self.f, self.g, self.dim = f, g, dim

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=self.dim)
        y1 = x1 + self.f(x2)
        y2 = x2 + self.g(y1)
        return torch.cat([y1, y2], dim=self.dim)


class InvertibleLinear(nn.Module):
    """A square linear layer and a leaky ReLU."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        # Well-conditioned, and no rotation that a tool could take apart.
        weight = torch.linalg.qr(torch.randn(width, width))[0]
        scale = torch.exp(torch.linspace(-0.3, 0.3, width))
        with torch.no_grad():
            self.linear.weight.copy_(weight * scale)

    def forward(self, x):
        return F.leaky_relu(self.linear(x), 0.5)


class Net(nn.Module):
    def __init__(self, stem, blocks, head):
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Pool(nn.Module):
    def forward(self, x):
        return x.mean(dim=[2, 3])


def conv(a):
    half = a.width // 2
    return Net(nn.Conv2d(3, a.width, 3, padding=1, bias=False),
               [Coupling(ConvBranch(half), ConvBranch(half), 1)
                for _ in range(a.depth)],
               nn.Sequential(Pool(), nn.Linear(a.width, 10)))


def transformer(a):
    half = a.width // 2
    return Net(nn.Linear(16, a.width),
               [Coupling(Attention(half, 4), MlpBranch(half), 2)
                for _ in range(a.depth)],
               nn.Linear(a.width, 10))


def mlp(a):
    half = a.width // 2
    return Net(nn.Linear(16, a.width),
               [Coupling(MlpBranch(half), MlpBranch(half), -1)
                for _ in range(a.depth)],
               nn.Linear(a.width, 10))


def empty(a):
    return Net(nn.Linear(16, a.width),
               [Coupling(TinyBranch(), TinyBranch(), -1)
                for _ in range(a.depth)],
               nn.Linear(a.width, 10))


def linear(a):
    return Net(nn.Linear(16, a.width),
               [InvertibleLinear(a.width) for _ in range(a.depth)],
               nn.Linear(a.width, 10))


KINDS = {f.__name__: f for f in (conv, transformer, mlp, empty, linear)}


def start_small(net, depth):
    """The last layer of each branch by 1/sqrt(2 depth), as deep residual
    networks start, so that the states do not grow with depth."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("blocks.") and any(
                    f".{last}." in name for last in ("conv2", "out", "down")):
                parameter.mul_((2 * depth) ** -0.5)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kind", choices=list(KINDS))
    p.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
    p.add_argument("--depth", type=int, default=8)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    net = KINDS[a.kind](a).train()
    start_small(net, a.depth)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(net).save(str(a.out))


if __name__ == "__main__":
    main()
