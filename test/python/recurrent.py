"""Models with loops and branches that stay ones when they are scripted: `n` is
known at run time only. test_loops.py tests them, test_accounting.py their
bytes."""

from typing import List

import torch
from torch import nn

WIDTH = 6


class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return 0.5 * self.down(torch.sigmoid(self.up(x)))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = Net()
        self.g = Net()
        self.gamma = 0.9

    def ends(self, a, b):
        return torch.sin(a) + torch.cos(b)


class Couplings(Base):
    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            a = a + self.f(b)
            b = b - self.g(a)
        return self.ends(a, b)


class Joined(Base):
    """One state, cut and put together by each iteration."""

    def forward(self, x, n: int):
        z = torch.cat([torch.sin(x), torch.cos(x)], dim=1)
        for _ in range(n):
            a, b = torch.chunk(z, 2, dim=1)
            a = a + self.f(b)
            b = b - self.g(a)
            z = torch.cat([b, a], dim=1)
        return torch.sin(z)


class Leapfrog(Base):
    def forward(self, x, n: int):
        old = torch.sin(x)
        new = old + 0.1 * self.f(old)
        for _ in range(n):
            old, new = new, old + 0.2 * self.f(new)
        return torch.sin(new)


class Verlet(Base):
    """The old state stands in the middle of the sum."""

    def forward(self, x, n: int):
        old, new = torch.sin(x), torch.cos(x)
        for _ in range(n):
            following = 2.0 * new - old + 0.01 * self.f(new)
            old = new
            new = following
        return self.ends(old, new)


class Momentum(Base):
    def forward(self, x, n: int):
        x, v = torch.sin(x), torch.zeros_like(x)
        for _ in range(n):
            v = self.gamma * v + (1.0 - self.gamma) * self.f(x)
            x = x + v
        return torch.sin(x)


class Affine(Base):
    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            a = a * torch.exp(0.1 * torch.tanh(self.f(b))) + self.g(b)
            a, b = b.flip([1]), a
        return self.ends(a, b)


class Conditioned(Base):
    """Every iteration reads what the loop does not change, and its number."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        c = torch.tanh(x)
        for i in range(n):
            a = a + self.f(b + float(i) * c)
            b = b + self.g(a) * c
        return self.ends(a, b)


class Nested(Base):
    """Chains before, between, in and behind loops in loops."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        a = a + self.f(b)
        for i in range(n):
            b = b + self.g(a)
            for _ in range(i):
                a = a - self.f(b)
                for _ in range(2):
                    a, b = b, a + self.g(b)
            a = a + self.f(b)
        b = b + self.g(a)
        return self.ends(a, b)


class While(Base):
    """Goes on until the state says stop."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        i = 0
        while i < n and bool(a.abs().sum() > 1e-3):
            a = a + self.f(b)
            b = b + self.g(a)
            i += 1
        return self.ends(a, b)


class Early(Base):
    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for i in range(n):
            a = a + self.f(b)
            if bool(a.sum() > 1e6) or i == 4:
                break
            b = b + self.g(a)
        return self.ends(a, b)


class Gated(Base):
    """Stochastic depth: what runs is drawn, in training."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            if bool(torch.rand([1]) < 0.5):
                a = a + self.f(b)
                b = b + self.g(a)
        return self.ends(a, b)


class GatedHalves(Base):
    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            if bool(torch.rand([1]) < 0.7):
                a = a + torch.dropout(self.f(b), 0.2, True)
            if bool(torch.rand([1]) < 0.7):
                b = b + self.g(a)
            else:
                b = b - self.f(a)
        return self.ends(a, b)


class Gates(Base):
    """No loop: one gate behind the other."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        if bool(torch.rand([1]) < 0.5):
            a = a + self.f(b)
            b = b + self.g(a)
        if n > 1:
            a, b = b, a + self.g(b)
        elif n > 0:
            b = b - self.f(a)
        return self.ends(a, b)


class Returned(Base):
    """The states themselves come out."""

    def forward(self, x, n: int):
        old = torch.sin(x)
        new = old + 0.1 * self.f(old)
        for _ in range(n):
            old, new = new, old + 0.2 * self.f(new)
        return old, new


# Models, and the steps in them.
FOUND = [(Couplings, 2), (Joined, 2), (Leapfrog, 1), (Verlet, 1), (Momentum, 2),
         (Affine, 1), (Conditioned, 2), (Nested, 6), (While, 2), (Early, 2),
         (Gated, 2), (GatedHalves, 3), (Gates, 4), (Returned, 1)]


class Later(Base):
    """What reads the state behind the step gets the state."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        total = torch.zeros_like(a)
        for _ in range(n):
            c = a + self.f(b)
            total = total + torch.sin(a) * c
            a = c
            b = b + self.g(a)
        return self.ends(a, b) + total


class Collected(Base):
    """The caller gets every state."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        states: List[torch.Tensor] = []
        for _ in range(n):
            a = a + self.f(b)
            states.append(a)
            b = b + self.g(a)
        states.append(b)
        return torch.stack(states).sin()


class Detached(Base):
    """No gradient goes from one iteration to the next through b."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            a = a + self.f(b)
            b = (b + self.g(a)).detach()
        return self.ends(a, b)


class Widening(Base):
    """float32 at first, float64 from the second iteration on."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        a = a.float()
        for _ in range(n):
            a = a + self.f(b)
            b = b + self.g(a.double())
        return self.ends(a.double(), b)


class Growing(Base):
    """Another size in each iteration."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            a = a + self.f(b)
            a, b = torch.cat([a, b]), torch.cat([b, a])
        return self.ends(a, b)


class Written(Base):
    """The state is written in place where the next iteration begins."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            c = a + self.f(b)
            d = c.view_as(c)
            d.mul_(2.0)
            a = c
            b = b + self.g(a)
        return self.ends(a, b)


class Dropped(Base):
    """Nobody wants what the loop made of b."""

    def forward(self, x, n: int):
        a, b = torch.sin(x), torch.cos(x)
        for _ in range(n):
            a = a + self.f(b)
            b = b + self.g(a)
        return torch.sin(a)


class Swapped(Base):
    """States that change their places, and places that change theirs."""

    def forward(self, x, n: int):
        a, b, c = torch.sin(x), torch.cos(x), torch.tanh(x)
        for _ in range(n):
            a, b, c = b, c, a + self.f(b)
        for _ in range(n):
            a, b = b, a
        return self.ends(a, b) * c


NEAR = [Later, Collected, Detached, Widening, Growing, Written, Dropped, Swapped]


class Fixed(nn.Module):
    """One of these, with the number of iterations in an attribute."""

    def __init__(self, model, trips):
        super().__init__()
        self.model = model
        self.trips = trips

    def forward(self, x):
        return self.model(x, self.trips)
