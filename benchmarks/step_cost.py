"""What a step costs besides its arithmetic: a chain of steps with an empty
conditioner, against plain autograd and torch.utils.checkpoint. Prints microseconds
for each step (docs/benchmarks.md, "Cost of a step").

    python benchmarks/step_cost.py [--steps 100] [--rounds 60]

Needs build/lib/libinv_runtime.so (or INVOPT_RUNTIME, a folder).
"""

import argparse
import os
import pathlib
import statistics
import time
import warnings
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Step(nn.Module):
    """y = x + (-z), as inv-opt writes such a step."""

    num_states: Final[int] = 1
    num_aux: Final[int] = 1
    num_sides: Final[int] = 0
    arithmetic: Final[str] = "scaled_sum"

    def __init__(self):
        super().__init__()
        self.mode = "invert"
        self.preserve_rng = True
        self.origin = "step_cost.py"
        self.max_growth = 32.0

    @torch.jit.export
    def conditioner(self, z: Tensor) -> Tensor:
        return torch.neg(z)


def scripted(steps, *statements):
    """forward(a, b) with these statements for each step, in one flat graph."""
    class Holder(nn.Module):  # a class of its own for each call
        def __init__(self):
            super().__init__()
            self.inv_step_0 = Step()

    lines = [*statements, "a = b", "b = y"] * steps
    module = torch.jit.script(Holder())
    module.define("def forward(self, a: Tensor, b: Tensor):\n" +
                  "".join(f"    {line}\n" for line in lines) +
                  "    return a, b\n")
    return module


def with_operators(steps):
    step = torch.jit.script(Step())
    call = torch.ops.inv.coupling

    def forward(a, b):
        for _ in range(steps):
            y, z = call(step, [a], [b], [], None)
            a, b = z, y
        return a, b

    return forward


def eager(steps):
    def forward(a, b):
        for _ in range(steps):
            a, b = b, a + torch.neg(b)
        return a, b
    return forward


def checkpointed(steps):
    def half(a, b):
        return a + torch.neg(b)

    def forward(a, b):
        for _ in range(steps):
            a, b = b, checkpoint(half, a, b, use_reentrant=False)
        return a, b

    return forward


def measure(variants, steps, rounds):
    """Medians of forward and backward, the variants in turn. Of the thread's own
    time: other work on the machine does not count, waiting would not either, and
    nobody waits here."""
    times = {name: ([], []) for name in variants}
    for i in range(rounds + 5):
        for name, forward in variants.items():
            x = [torch.randn(4, 4, requires_grad=True) for _ in range(2)]
            start = time.thread_time()
            a, b = forward(*x)
            middle = time.thread_time()
            (a.sum() + b.sum()).backward()
            end = time.thread_time()
            if i >= 5:
                times[name][0].append((middle - start) / steps * 1e6)
                times[name][1].append((end - middle) / steps * 1e6)
    return {name: [statistics.median(t) for t in both]
            for name, both in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder = os.environ.get("INVOPT_RUNTIME", ROOT / "build/lib")
    torch.ops.load_library(f"{folder}/libinv_runtime.so")
    torch._C._set_graph_executor_optimize(False)
    steps = options.steps
    variants = {
        "plain autograd, eager": eager(steps),
        "plain autograd, TorchScript": scripted(steps, "y = a + torch.neg(b)"),
        "steps, TorchScript": scripted(
            steps, "s = torch.ops.inv.coupling(self.inv_step_0, [a], [b], [], "
            "None)", "y = s[0]", "b = s[1]"),
        "steps, called from Python": with_operators(steps),
        "`torch.utils.checkpoint`, not reentrant": checkpointed(steps),
    }
    print("| | forward | backward |\n|---|---|---|")
    for name, (forward, backward) in measure(variants, steps,
                                             options.rounds).items():
        print(f"| {name} | {forward:.1f} | {backward:.1f} |")


if __name__ == "__main__":
    main()
