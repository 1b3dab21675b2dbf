"""run_archive.py A B: exits 0 where both archives compute the same bits.

Prints, one a line: forward's schema, the names in the state dict, and the
extra file note.txt, of the second."""

import sys

import torch

files = {"note.txt": ""}
first = torch.jit.load(sys.argv[1])
second = torch.jit.load(sys.argv[2], _extra_files=files)
x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
assert torch.equal(first(x), second(x))
print("schema:", second.forward.schema)
print("state:", " ".join(second.state_dict()))
print("note:", files["note.txt"].decode() if files["note.txt"] else "none")
