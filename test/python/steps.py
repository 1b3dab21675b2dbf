"""Steps written by hand, as inv-opt would write them, and chains of them: the
operators called from Python, on any device."""

import io
from typing import Any, Final, List, Tuple

import torch
from torch import Tensor, nn


class Step(nn.Module):
    """What a user may change. The constants of the subclasses are their own:
    TorchScript inherits none that a subclass has annotations beside."""

    def __init__(self):
        super().__init__()
        self.mode = "invert"
        self.preserve_rng = True
        self.origin = "net.py:41"
        self.max_growth = 32.0


class Sum(Step):
    """y = x + F(z). Subclasses add the conditioner."""

    num_states: Final[int] = 1
    num_aux: Final[int] = 1
    num_sides: Final[int] = 0
    arithmetic: Final[str] = "scaled_sum"


class Mlp(Sum):
    @torch.jit.export
    def conditioner(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(torch.nn.functional.linear(torch.tanh(z), w, b))


class Relu(Sum):
    """Exact zeros matter."""

    @torch.jit.export
    def conditioner(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(torch.nn.functional.linear(torch.relu(z), w, b))


class Dropout(Sum):
    @torch.jit.export
    def conditioner(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        h = torch.nn.functional.linear(torch.tanh(z), w, b)
        return torch.nn.functional.dropout(torch.tanh(h), 0.3, True)


class Sort(Sum):
    """Chooses."""

    @torch.jit.export
    def conditioner(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        h = torch.sort(z, 1)[0]
        return torch.tanh(torch.nn.functional.linear(h, w, b))


class Norm(Step):
    """Writes its statistics."""

    num_states: Final[int] = 1
    num_aux: Final[int] = 1
    num_sides: Final[int] = 0
    arithmetic: Final[str] = "scaled_sum"
    scratch_captures: Final[List[int]] = [2, 3]

    @torch.jit.export
    def conditioner(self, z: Tensor, w: Tensor, b: Tensor, mean: Tensor,
                    var: Tensor) -> Tensor:
        h = torch.nn.functional.linear(z, w)
        h = torch.nn.functional.batch_norm(h, mean, var, None, None, True)
        return h * (1 + b)


class Affine(Step):
    """y = x * exp(s(z)) + tanh(z), with measured growth and sum(s) beside it."""

    num_states: Final[int] = 1
    num_aux: Final[int] = 2
    num_sides: Final[int] = 1
    function_captures: Final[List[int]] = []

    @torch.jit.export
    def conditioner(self, z: Tensor, w: Tensor,
                    b: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        s = torch.tanh(torch.nn.functional.linear(z, w, b)) * 0.1
        return torch.exp(s), torch.tanh(z), s.sum(1)

    @torch.jit.export
    def function(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return x * s + t

    @torch.jit.export
    def inverse(self, y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return (y - t) / s

    @torch.jit.export
    def growth(self, y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return torch.amax(torch.reciprocal(s))


def coupling(step: Any, x: Tensor, z: Tensor, captures: List[Tensor]):
    return torch.ops.inv.coupling(step, [x], [z], captures, None)


def reloaded(module):
    """With code of its own: TorchScript bakes autocast's dtype into a function at
    its first run."""
    archive = io.BytesIO()
    torch.jit.save(module, archive)
    archive.seek(0)
    return torch.jit.load(archive)


class Chain:
    """`depth` steps of one class over two streams, with their captures."""

    def __init__(self, kind, depth, width=4, device="cpu", dtype=torch.float64):
        self.kind = kind
        self.eager = kind()
        self.step = reloaded(torch.jit.script(kind()))
        generator = torch.Generator().manual_seed(depth)
        self.captures = []
        for _ in range(depth):
            w = torch.randn(width, width, generator=generator) / width ** 0.5
            b = torch.randn(width, generator=generator) / 10
            own = [t.to(device, dtype).requires_grad_() for t in (w, b)]
            if kind is Norm:
                own += [torch.zeros(width, device=device, dtype=dtype),
                        torch.ones(width, device=device, dtype=dtype)]
            self.captures.append(own)

    def parameters(self):
        return [t for own in self.captures for t in own if t.requires_grad]

    def buffers(self):
        return [t for own in self.captures for t in own if not t.requires_grad]

    def plain(self, a, b):
        """Both streams, and what the steps give beside them."""
        sides = []
        for own in self.captures:
            if self.kind is Affine:
                s, t, side = self.eager.conditioner(b, *own)
                a, b = b, a * s + t
                sides.append(side)
            else:
                a, b = b, a + self.eager.conditioner(b, *own)
        return [a, b, *sides]

    def __call__(self, a, b):
        sides = []
        read = a
        for own in self.captures:
            out = coupling(self.step, a, b, own)
            read = b
            a, b = out[-1], out[0]
            sides += out[1:-1]
        # The tensor that the last step read, as inv-opt returns it: a gradient
        # asked of it is that of all its uses.
        return [read, b, *sides]


def loss_of(outputs):
    return sum((t * t.sin()).float().sum() if t.dtype in (torch.float16,
                                                          torch.bfloat16)
               else (t * t.sin()).sum() for t in outputs)


def gradients(chain, plain, inputs):
    """Outputs, then gradients of inputs and parameters, then buffers."""
    x = [t.detach().clone().requires_grad_() for t in inputs]
    y = chain.plain(*x) if plain else chain(*x)
    found = torch.autograd.grad(loss_of(y), [*x, *chain.parameters()])
    return [*(t.detach().clone() for t in y), *found,
            *(t.clone() for t in chain.buffers())]
