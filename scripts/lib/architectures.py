"""The work of scripts/architectures."""

import argparse
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test/python"))
import architectures  # noqa: E402
import compare  # noqa: E402

BIN = pathlib.Path(os.environ.get("INVOPT_BIN", ROOT / "build/bin"))
PAGE = ROOT / "docs/architectures.md"

HEADER = """# Architectures

Written by `scripts/architectures` from the table in
`test/python/architectures.py`; edit that, and run it again. The models are the
scripts of `examples/models`, written as the papers state them, for 8x8 images;
nothing in them knows of inv-opt. `test/python/test_architectures.py` tests the
same table at smaller sizes.

## Steps and gradients

*Found / there*: the steps that inv-opt makes, and those that there are in exact
arithmetic; splits, joins and layout are not counted. Gradient errors: largest
difference to plain autograd on the original over largest element, the worst
tensor of three calls, in float32 at all three depths below, in float64 at the
second; *own* is the distance of the original's float32 gradients to a float64
run of it, at the first of these calls (none where dropout draws other masks in
float64). Forward results were bit-equal in all. i-RevNet's first blocks work on
channels of zeros only, where batch norm divides by almost nothing: the
original's own gradients are off by as much there, at other calls. So they are
with ReLU, where a rounding error may put an element on the other side of zero:
of 200 calls with digits in other orders, at depth 8, the original's float32
gradients were more than 1e-3 from float64 in 3, the rewritten model's in 4, and
the two from each other in 3.

"""

BYTES = """
## Peak bytes

Most bytes of tensors that a training step adds (batch of 64, float32, gradients
allocated before), as a counting allocator saw them, at three depths: of the
original, and of the rewritten model (the traced form; of the loop, the scripted
one, at three trip counts). *Grows* says why the rewritten model's are not the
same at every depth.

"""

MISSED = """
## What is missed

"""


class Measurement:
    """One architecture's rows."""

    def __init__(self, architecture, folder, data):
        self.a = architecture
        self.folder = folder
        self.data = data
        self.steps = {}
        self.error = {"float32": [], "float64": []}
        self.own = []
        self.peaks = []
        self.problems = []

    def run(self):
        for depth in self.a.depths:
            stem = self.save(depth, "float32")
            original, rewritten = self.compare(stem, self.a.form, depth)
            if original:
                self.peaks.append((original, rewritten))
            if depth == self.a.depths[0]:
                for form in self.a.forms:
                    if form != self.a.form:
                        self.compare(stem, form, depth)
        stem = self.save(self.a.depths[1], "float64")
        for form in self.a.forms:
            self.compare(stem, form, None, "float64")
        self.check()
        return self

    def save(self, depth, dtype):
        stem = f"{self.a.name}.{depth}.{dtype}"
        with contextlib.redirect_stdout(io.StringIO()):
            self.a.save(self.folder, stem, depth, self.a.width, dtype)
        return stem

    def compare(self, stem, form, depth, dtype="float32"):
        """Rewrites and compares; returns both peaks."""
        original = self.folder / f"{stem}.{form}.pt"
        rewritten = self.folder / f"{stem}.{form}.inv.pt"
        remarks = compare.rewrite(original, rewritten, tool=BIN / "inv-opt")
        if depth == self.a.depths[0]:
            self.steps[form] = (self.a.count(remarks),
                                self.a.there(depth, form))
        if self.a.outputs > 1:
            return None, None
        result = self.folder / "result.json"
        done = subprocess.run(
            [BIN / "inv-train", "--compare", original, rewritten, "--data",
             self.data, "--epochs", "0", "--batch", "64", "--json", result],
            capture_output=True, text=True)
        if done.returncode not in (0, 1):
            last = done.stderr.strip().splitlines()[-1:]
            self.problems.append(f"{original.name}: inv-train: {''.join(last)}")
            return None, None
        result = json.loads(result.read_text())
        for what in ("forward_bit_equal", "first_loss_equal",
                     "buffers_bit_equal"):
            if not result[what]:
                self.problems.append(f"{original.name}: not {what}")
        error = result["gradient_error"]
        self.error[dtype].append(error["first"])
        if dtype == "float32" and error.get("original_to_float64") is not None:
            self.own.append(error["original_to_float64"])
        return (result["original"]["peak_bytes"],
                result["rewritten"]["peak_bytes"])

    def check(self):
        peaks = {rewritten for _, rewritten in self.peaks}
        if not self.a.grows and not self.a.missed and len(peaks) > 1:
            self.problems.append(f"{self.a.name}: peak bytes grow with depth: "
                                 f"{sorted(peaks)}")
        for form in self.a.forms:
            found, there = self.steps[form]
            if found > there or found < there and not self.a.missed:
                self.problems.append(f"{self.a.name}, {form}: {found} steps of "
                                     f"{there}")

    def first_row(self):
        def worst(errors):
            return f"{max(errors):.1e}" if errors else "-"

        steps = ["{} / {}".format(*self.steps[form])
                 if form in self.steps else "-" for form in architectures.FORMS]
        return [f"`{self.a.name}`", self.a.paper, *steps,
                worst(self.error["float32"]), worst(self.own),
                worst(self.error["float64"])]

    def second_row(self):
        if not self.peaks:
            return [f"`{self.a.name}`", "-", "", "-", "", "-", "",
                    "two outputs, which inv-train does not train"
                    if self.a.outputs > 1 else "not measured"]
        cells = [f"`{self.a.name}`"]
        for depth, (original, rewritten) in zip(self.a.depths, self.peaks):
            cells += [f"{depth}: {original:,}", f"{rewritten:,}"]
        peaks = {rewritten for _, rewritten in self.peaks}
        return cells + ["no" if len(peaks) == 1 else
                        self.a.grows or "see what is missed"]


def table(headings, rows):
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def page(measured):
    return (HEADER
            + table(["model", "architecture", "scripted: found / there",
                     "traced: found / there", "float32", "own", "float64"],
                    [m.first_row() for m in measured])
            + BYTES
            + table(["model", "depth: original", "rewritten",
                     "depth: original", "rewritten", "depth: original",
                     "rewritten", "grows"],
                    [m.second_row() for m in measured])
            + missed([m.a for m in measured if m.a.missed]))


def missed(known):
    """One line for each reason."""
    if not known:
        return ""
    names = {}
    for a in known:
        names.setdefault(a.missed, []).append(f"`{a.name}`")
    return MISSED + "".join(f"- {', '.join(who)}: {reason}\n"
                            for reason, who in names.items())


def main():
    p = argparse.ArgumentParser(prog="scripts/architectures")
    p.add_argument("--only", type=lambda names: names.split(","), default=[],
                   metavar="SCRIPT,...", help="these scripts of "
                   "examples/models only; print, write nothing")
    args = p.parse_args()
    for tool in ("inv-opt", "inv-train"):
        if not (BIN / tool).exists():
            p.error(f"{tool} is not built (INVOPT_BIN)")
    chosen = [a for a in architectures.ARCHITECTURES
              if not args.only or (a.script or a.name) in args.only]
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = folder / "digits.bin"
        subprocess.run([sys.executable, ROOT / "examples/data/digits.py", data],
                       check=True, stdout=subprocess.DEVNULL)
        for a in chosen:
            start = time.monotonic()
            measured.append(Measurement(a, folder, data).run())
            print(f"architectures: {a.name}: {time.monotonic() - start:.1f} s",
                  file=sys.stderr, flush=True)
    if args.only:
        print(page(measured).partition("## Steps")[2])
    else:
        PAGE.write_text(page(measured), encoding="utf-8")
    problems = [problem for m in measured for problem in m.problems]
    for problem in problems:
        print(f"architectures: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
