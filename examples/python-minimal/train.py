"""Trains a rewritten model from Python.

    python examples/python-minimal/train.py MODEL.inv.pt [LIBRARY]

Loading the library is the one line that the original model would not need.
"""

import sys

import torch

LIBRARY = sys.argv[2] if len(sys.argv) > 2 else "build/lib/libinv_runtime.so"
images, labels = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))

torch.ops.load_library(LIBRARY)
model = torch.jit.load(sys.argv[1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(10):
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}  loss {loss.item():.4f}")
