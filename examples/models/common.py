"""What every example model shares: its command line, and how it is saved.

    python examples/models/revnet.py --out DIR [--depth N] [--width W]
                                     [--seed S] [--dtype float32|float64]

writes DIR/<name>.scripted.pt and DIR/<name>.traced.pt. The models are plain
PyTorch for 8x8 grey images in ten classes; they know nothing of inv-opt.
"""

import argparse
import pathlib

import torch


def parser(description, depth, width):
    """The options that all models have; a model may add its own."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."),
                   metavar="DIR", help="folder for the archives")
    p.add_argument("--name", help="stem of the archives (default: the model's)")
    p.add_argument("--depth", type=int, default=depth, help="number of blocks")
    p.add_argument("--width", type=int, default=width,
                   help="channels, or features")
    p.add_argument("--seed", type=int, default=0, help="of the initial weights")
    p.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    return p


def start_small(layers, depth):
    """Scales the last layer of each branch by 1/sqrt(2 * depth) at the start,
    as deep residual networks often do, so that the sum over all blocks does not
    grow with depth."""
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.mul_((2 * depth) ** -0.5)


def save(name, build, args, forms=("scripted", "traced")):
    """Builds the model and saves it, scripted and traced.

    `build` takes the parsed arguments and returns the module. It is traced in
    train mode: a trace records dropout and batch statistics as they are at
    that moment, so that the traced model trains, and stays in train mode.
    `forms` leaves out the form that a model cannot be saved in.
    """
    dtype = getattr(torch, args.dtype)
    torch.set_default_dtype(dtype)
    torch.manual_seed(args.seed)
    model = build(args).train()
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.name or name

    paths = []
    for form in forms:
        paths.append(str(args.out / f"{stem}.{form}.pt"))
        make = torch.jit.script if form == "scripted" else trace
        make(model).save(paths[-1])

    parameters = sum(p.numel() for p in model.parameters())
    print(f"{stem}: {parameters:,} parameters, {', '.join(paths)}")


def trace(model):
    # Tracing runs the model once, which would move its running statistics.
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.rand(3, 1, 8, 8)
    traced = torch.jit.trace(model, images, check_trace=False)
    traced.load_state_dict(before)
    return traced
