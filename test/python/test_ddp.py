"""Rewritten models under DistributedDataParallel, two gloo processes on one
machine: after 20 steps the parameters are those of the original."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from conftest import LIBRARY
from compare import both
from nets import Block, Model, Network

WIDTH = 4
WORLD = 2
STEPS = 20


class Extra(nn.Module):
    """Weights that are shared by two steps, and some that no step uses."""

    def __init__(self, shared, unused):
        super().__init__()
        network = Network(WIDTH)
        self.block = Block(network, network if shared else Network(WIDTH))
        self.unused = nn.Linear(WIDTH, WIDTH) if unused else nn.Identity()

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        x1, x2 = self.block(x1, x2)
        x1, x2 = self.block(x1, x2)
        return torch.cat([x1, x2], dim=1)


CASES = {
    "plain": (lambda: Model(lambda: Network(WIDTH), 2), {}),
    "static graph": (lambda: Model(lambda: Network(WIDTH), 2),
                     {"static_graph": True}),
    "unused parameters": (lambda: Extra(False, True),
                          {"find_unused_parameters": True}),
    "shared weights": (lambda: Extra(True, False), {}),
    "shared weights, static graph": (lambda: Extra(True, False),
                                     {"static_graph": True}),
    "no_sync": (lambda: Model(lambda: Network(WIDTH), 2), {}),
    "twice": (lambda: Model(lambda: Network(WIDTH), 2), {}),
}


def worker(rank, case, path, rendezvous, results):
    torch.ops.load_library(str(LIBRARY))
    torch._C._set_graph_executor_optimize(False)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}",
                            rank=rank, world_size=WORLD)
    model = torch.jit.load(path)
    parallel = DistributedDataParallel(model, **CASES[case][1])
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
    torch.manual_seed(rank)
    for i in range(STEPS):
        x = torch.randn(6, 2 * WIDTH)
        if case == "twice":  # two calls, one backward
            x = parallel(x)
        if case == "no_sync" and i % 2 == 0:
            with parallel.no_sync():
                parallel(x).sin().sum().backward()
            continue
        parallel(x).sin().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save([p.detach() for p in model.parameters()], f"{results}.{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
def test_h18_ddp(tmp_path, case):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        both(CASES[case][0](), tmp_path, steps=2)
    finally:
        torch.set_default_dtype(torch.float32)
    after = {}
    for kind in ("model.pt", "model.inv.pt"):
        results = tmp_path / f"{kind}.weights"
        mp.start_processes(
            worker, (case, str(tmp_path / kind), tmp_path / f"{kind}.store",
                     str(results)),
            nprocs=WORLD, start_method="spawn")
        ranks = [torch.load(f"{results}.{rank}") for rank in range(WORLD)]
        for a, b in zip(*ranks):
            assert torch.equal(a, b)
        after[kind] = ranks[0]
    for actual, expected in zip(after["model.inv.pt"], after["model.pt"]):
        assert (actual - expected).abs().max() <= 1e-10 * expected.abs().max()
