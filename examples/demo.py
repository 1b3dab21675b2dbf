#!/usr/bin/env python3
"""Makes the example models, rewrites them, and trains both forms side by side.

    python examples/demo.py [--out build/demo] [--models revnet,...] [--quick]

Needs inv-opt and inv-train in build/bin (or in the folder that INVOPT_BIN
names); `scripts/demo` builds them and then calls this. Prints a table, writes
report.html and results.json, and ends with exit code 1 where a rewritten
model does not behave as it must.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

import demo_report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


@dataclasses.dataclass
class Model:
    name: str
    title: str
    about: str
    form: str  # which archive is trained: "scripted" or "traced"
    depth: int
    # That inv-opt must find, at least: two for each block, and the last cat.
    # 0: none at all.
    steps: int
    epochs: int
    batch: int
    lr: float
    # Largest relative difference of a gradient to the original's, before
    # training, in float32: about what rounding does to the original itself
    # (its distance to a float64 run, in the report). In float64 it is 1e-12
    # for all.
    bound: float


MODELS = [
    Model("revnet", "Reversible ResNet",
          "16 blocks of two convolutional branches with batch norm, written "
          "with chunk and cat; traced",
          "traced", 16, 33, 8, 64, 5e-3, 5e-6),
    Model("revvit", "Reversible vision transformer",
          "12 blocks of attention and MLP with dropout 0.1, as two streams; "
          "scripted",
          "scripted", 12, 25, 12, 32, 3e-3, 2e-6),
    Model("revmlp", "Deep MLP of couplings",
          "32 equal blocks with layer norm and GELU; traced",
          "traced", 32, 65, 8, 64, 1e-3, 2e-6),
    Model("realnvp", "Chain of affine couplings",
          "32 couplings x * exp(tanh(s)) + t with a log-determinant (RealNVP); "
          "traced",
          "traced", 32, 33, 8, 64, 1e-3, 5e-6),
    # Each layer is undone by a solve and by a leaky ReLU of slope 1/0.7, which
    # widen a rounding error a little at each of the 24 layers.
    Model("invlinear", "MLP of invertible layers",
          "12 linear layers and leaky ReLUs that export their own inverse; "
          "scripted",
          "scripted", 12, 24, 60, 256, 3e-3, 5e-6),
    Model("resnet", "Plain ResNet",
          "8 blocks of x + F(x): nothing to undo, must come out unchanged; "
          "traced",
          "traced", 8, 0, 6, 64, 5e-3, 0.0),
]
FLOAT64_BOUND = 1e-12
CHAIN_DEPTHS = [8, 32, 128]


class Failure(Exception):
    """A program that ended with an error."""


class Demo:
    def __init__(self, args):
        self.args = args
        self.bin = pathlib.Path(os.environ.get("INVOPT_BIN",
                                               ROOT / "build" / "bin"))
        self.out = args.out
        self.archives = args.out / "models"
        self.data = args.out / "digits.bin"
        self.failures = []
        # More threads than cores make small steps slower.
        self.env = dict(os.environ)
        self.env.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))

    def say(self, text):
        print(f"demo: {text}", file=sys.stderr, flush=True)

    def call(self, *command, accept=(0,)):
        """Runs a program; its standard error goes to ours, as it comes."""
        command = [str(part) for part in command]
        done = subprocess.run(command, env=self.env, text=True,
                              stdout=subprocess.PIPE)
        if done.returncode not in accept:
            raise Failure(f"exit code {done.returncode}: "
                          f"{shlex.join(command)}\n{done.stdout}".rstrip())
        return done

    def make(self, script, *options):
        self.call(sys.executable, HERE / "models" / f"{script}.py",
                  "--out", self.archives, *options)

    def rewrite(self, stem):
        """Returns the path of the rewritten archive and the remarks."""
        source = self.archives / f"{stem}.pt"
        target = self.archives / f"{stem}.inv.pt"
        remarks = self.archives / f"{stem}.remarks.json"
        self.call(self.bin / "inv-opt", source, "-o", target, "-q",
                  f"--remarks-output={remarks}")
        return target, demo_report.read_remarks(remarks)

    def compare(self, stem, *, epochs, batch, lr, steps, bound):
        """Trains original and rewritten in one process; checks as it must."""
        target, remarks = self.rewrite(stem)
        result_file = self.out / f"{stem}.json"
        command = [self.bin / "inv-train", "--compare",
                   self.archives / f"{stem}.pt", target, "--data", self.data,
                   "--epochs", epochs, "--batch", batch, "--lr", lr,
                   "--require-steps", steps, "--max-gradient-error", bound,
                   "--json", result_file]
        if self.call(*command, accept=(0, 1)).returncode != 0:
            self.failures.append(f"{stem}: does not behave as it must "
                                 "(the lines above say what)")
        result = json.loads(result_file.read_text())
        if steps == 0 and result["steps"] != 0:
            self.failures.append(f"{stem}: {result['steps']} steps, "
                                 "but there is nothing to undo")
        result["remarks"] = remarks
        return result

    def model(self, model):
        """One row of the table."""
        self.say(f"{model.title}: make, rewrite, train both")
        start = time.monotonic()
        for dtype in ("float32", "float64"):
            self.make(model.name, "--depth", model.depth, "--dtype", dtype,
                      "--name", f"{model.name}.{dtype}")
        stem = f"{model.name}.float32.{model.form}"
        epochs = 1 if self.args.quick else model.epochs
        row = self.compare(stem, epochs=epochs, batch=model.batch, lr=model.lr,
                           steps=model.steps, bound=model.bound)
        # A few calls each of the other forms, without training.
        for dtype, bound in (("float32", model.bound),
                             ("float64", min(FLOAT64_BOUND, model.bound))):
            for form in ("scripted", "traced"):
                other = f"{model.name}.{dtype}.{form}"
                if other == stem:
                    continue
                check = self.compare(other, epochs=0, batch=model.batch,
                                     lr=model.lr, steps=model.steps,
                                     bound=bound)
                error = check["gradient_error"]["first"]
                key = ("first" if dtype == "float32" else "float64")
                row["gradient_error"][key] = max(
                    row["gradient_error"].get(key, 0.0), error)
        row["seconds"] = time.monotonic() - start
        return row

    def chain(self):
        """Peak bytes of the same chain at several depths."""
        points = []
        for depth in CHAIN_DEPTHS:
            self.say(f"chain of {depth} blocks: peak bytes")
            name = f"chain{depth}"
            self.make("revmlp", "--depth", depth, "--name", name)
            result = self.compare(f"{name}.traced", epochs=0, batch=64,
                                  lr=1e-3, steps=2 * depth + 1, bound=5e-6)
            points.append({"depth": depth,
                           "original": result["original"]["peak_bytes"],
                           "rewritten": result["rewritten"]["peak_bytes"],
                           "gradient_error": result["gradient_error"]["first"]})
        peaks = {p["rewritten"] for p in points}
        if len(peaks) != 1:
            self.failures.append("the rewritten chain's peak grows with its "
                                 f"depth: {sorted(peaks)} bytes")
        return points

    def graphs(self):
        """Printed IR of one block, before and after."""
        self.make("revmlp", "--depth", 1, "--name", "block")
        archive = self.archives / "block.traced.pt"
        tool = self.bin / "inv-opt"
        before = self.call(tool, archive, "-S", "-q", "--passes=canonicalize")
        after = self.call(tool, archive, "-S", "-q")
        return before.stdout, after.stdout

    def run(self):
        for tool in ("inv-opt", "inv-train"):
            if not (self.bin / tool).exists():
                raise Failure(f"{self.bin / tool} is not there; "
                              "scripts/demo builds it")
        self.archives.mkdir(parents=True, exist_ok=True)
        self.call(sys.executable, HERE / "data" / "digits.py", self.data)
        chosen = [m for m in MODELS
                  if not self.args.models or m.name in self.args.models]
        rows = [(m, self.model(m)) for m in chosen]
        chain = self.chain()
        before, after = self.graphs()

        version = self.call(self.bin / "inv-opt", "--version").stdout
        print(demo_report.table(rows))
        (self.out / "results.json").write_text(json.dumps(
            {"models": {m.name: r for m, r in rows}, "chain": chain}, indent=1))
        page = demo_report.page(rows, chain, before, after, version,
                                self.failures,
                                quick=self.args.quick,
                                threads=self.env["OMP_NUM_THREADS"])
        (self.out / "report.html").write_text(page, encoding="utf-8")
        picture = demo_report.picture(rows)
        if picture:
            (self.out / "memory.svg").write_text(picture, encoding="utf-8")
        self.say(f"wrote {self.out / 'report.html'}")
        return self.failures


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=pathlib.Path,
                   default=ROOT / "build" / "demo", metavar="DIR")
    p.add_argument("--models", type=lambda s: s.split(","), default=[],
                   metavar="NAME,...", help="only these; one or more of "
                   + ", ".join(m.name for m in MODELS))
    p.add_argument("--quick", action="store_true",
                   help="one epoch instead of several: checks all, but the "
                        "models do not learn much")
    args = p.parse_args()
    unknown = set(args.models) - {m.name for m in MODELS}
    if unknown:
        p.error("no such model: " + ", ".join(sorted(unknown)))
    try:
        failures = Demo(args).run()
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    for failure in failures:
        print(f"demo: FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
