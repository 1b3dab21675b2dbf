"""NICE (Dinh et al., 2014) for 8x8 digits.

The 64 pixels are split into those of even and of odd number. Layers take turns:

    h_even = x_even    h_odd = x_odd + m(x_even)

m is an MLP; a diagonal scaling exp(s) of all dimensions ends the chain. The
halves are put together after each layer, interleaved as they were, by stack or
by writing them into a new tensor.
"""

import torch
from torch import nn

import common


class Shift(nn.Module):
    """m: an MLP with ReLUs."""

    def __init__(self, size, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(),
                                    nn.Linear(hidden, hidden), nn.ReLU())
        self.last = nn.Linear(hidden, size)

    def forward(self, x):
        return self.last(self.layers(x))


class Additive(nn.Module):
    def __init__(self, size, hidden, odd: bool):
        super().__init__()
        self.odd = odd
        self.m = Shift(size // 2, hidden)

    def forward(self, x):
        even, odd = x[:, ::2], x[:, 1::2]
        if self.odd:
            odd = odd + self.m(even)
        else:
            even = even + self.m(odd)
        return self.join(even, odd, x)


class StackAdditive(Additive):
    def join(self, even, odd, x):
        return torch.stack([even, odd], dim=2).flatten(1)


class WriteAdditive(Additive):
    def join(self, even, odd, x):
        y = torch.empty_like(x)
        y[:, ::2] = even
        y[:, 1::2] = odd
        return y


JOINS = {"stack": StackAdditive, "write": WriteAdditive}


class Nice(nn.Module):
    def __init__(self, depth, hidden, join, size=64, classes=10):
        super().__init__()
        self.blocks = nn.Sequential(*[JOINS[join](size, hidden, i % 2 == 0)
                                      for i in range(depth)])
        common.start_small([block.m.last for block in self.blocks], depth)
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.head = nn.Linear(size, classes)

    def forward(self, images):
        h = self.blocks(images.flatten(1))
        h = h * torch.exp(self.log_scale)
        return self.head(h) + 0.001 * self.log_scale.sum()


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=64)
    p.add_argument("--join", choices=list(JOINS), default="stack")
    common.save("nice", lambda a: Nice(a.depth, a.width, a.join),
                p.parse_args())
