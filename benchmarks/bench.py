#!/usr/bin/env python3
"""Measures training steps under inv-opt and under what a user could pick instead.

    python benchmarks/bench.py [--quick] [--only conv,mlp,...] [--out FILE.json]
    python benchmarks/bench.py --compare OLD.json [--with NEW.json]
    python benchmarks/bench.py --table FILE.json

Needs inv-opt and inv-bench in build/bin (or in the folder that INVOPT_BIN
names); `scripts/bench` builds them and then calls this. Every configuration is
one process in which the algorithms take turns step by step; peaks are exact
bytes, times medians. Writes all samples as JSON, and prints tables.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
COUPLING = ["plain", "checkpoint", "memcnn", "revtorch", "invert", "recompute",
            "store"]
LINEAR = ["plain", "checkpoint", "pinverse", "invert", "store"]


@dataclasses.dataclass
class Net:
    """A network of models.py and the sizes at which it is measured."""
    name: str
    about: str
    kind: str
    width: int
    depths: list
    batches: list
    shape: tuple  # of one input
    tokens: int   # places at which the state has `width` channels, per input
    algorithms: list = dataclasses.field(default_factory=lambda: COUPLING)

    def state_bytes(self, batch):
        """A of docs/benchmarks.md: the bytes of both streams."""
        return 4 * batch * self.width * self.tokens


NETS = [
    Net("conv", "RevNet-like: batch norm, SiLU, 3x3 convolutions", "conv", 32,
        [8, 24, 96], [4, 8, 16], (3, 12, 12), 144),
    Net("transformer", "attention and MLP, pre-norm", "transformer", 64,
        [8, 24, 96], [2, 4, 8], (32, 16), 32),
    Net("mlp", "MLP blocks, activations dominate", "mlp", 32,
        [8, 24, 96], [256, 512, 1024], (16,), 1),
    Net("mlp-weights", "MLP blocks, weights dominate", "mlp", 512,
        [4, 8, 16], [8, 16, 32], (16,), 1),
    Net("linear", "invertible linear layers with leaky ReLU", "linear", 128,
        [8, 16, 24], [128, 256, 512], (16,), 1, LINEAR),
]
QUICK = {"conv": ([8, 24], [8]), "transformer": ([8, 24], [4]),
         "mlp": ([8, 24, 96], [512]), "mlp-weights": ([8], [16]),
         "linear": ([8], [256])}


class Failure(Exception):
    pass


def call(*command, env=None, quiet=False):
    command = [str(c) for c in command]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE if quiet else None,
                          env={**os.environ, **(env or {})})
    if done.returncode:
        raise Failure(f"exit code {done.returncode}: {' '.join(command)}\n"
                      f"{done.stderr or ''}")
    return done.stdout


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Bench:
    def __init__(self, args):
        self.args = args
        self.bin = pathlib.Path(os.environ.get("INVOPT_BIN",
                                               ROOT / "build" / "bin"))
        for tool in ("inv-opt", "inv-bench"):
            if not (self.bin / tool).exists():
                raise Failure(f"{self.bin / tool} is not there; scripts/bench "
                              "builds it")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="inv-bench-"))
        self.threads = os.environ.get("OMP_NUM_THREADS", "1")

    def archives(self, kind, depth, width):
        """Paths of the original and of the rewritten archive."""
        stem = self.folder / f"{kind}-{depth}-{width}"
        original = stem.with_suffix(".pt")
        rewritten = stem.with_suffix(".inv.pt")
        if not original.exists():
            call(sys.executable, HERE / "models.py", kind, "--out", original,
                 "--depth", depth, "--width", width)
            call(self.bin / "inv-opt", original, "-o", rewritten, "-q",
                 "--require-steps=1")
        return original, rewritten

    def train(self, kind, depth, width, sizes, algorithms, steps, seconds,
              malloc="kept"):
        original, rewritten = self.archives(kind, depth, width)
        command = [self.bin / "inv-bench", "train", "--original", original,
                   "--rewritten", rewritten,
                   "--input", ",".join(map(str, sizes)),
                   "--algorithms", ",".join(algorithms),
                   "--steps", steps, "--seconds", seconds]
        if malloc == "default":
            command.append("--default-malloc")
        return json.loads(call(*command,
                               env={"OMP_NUM_THREADS": self.threads}))

    def network(self, net):
        runs = []
        depths, batches = net.depths, net.batches
        if self.args.quick:
            depths, batches = QUICK[net.name]
        middle = batches[len(batches) // 2]
        for depth in depths:
            for batch in batches:
                # Every depth at the middle batch, every batch at the middle
                # depth: a cross, not a square.
                if batch != middle and depth != depths[len(depths) // 2]:
                    continue
                say(f"{net.name}: {depth} blocks, batch {batch}")
                run = self.train(net.kind, depth, net.width,
                                 [batch, *net.shape], net.algorithms,
                                 8 if self.args.quick else 30,
                                 8 if self.args.quick else 90)
                run.update(depth=depth, batch=batch,
                           state_bytes=net.state_bytes(batch))
                runs.append(run)
        return runs

    def widths(self):
        """M5: peak over width."""
        out = []
        for width in ([64, 512] if self.args.quick else
                      [64, 256, 1024, 4096, 8192]):
            say(f"width {width}: 4 blocks")
            # The conditioner's weights are gradients' business; batch as large
            # as makes activations dominate.
            run = self.train("mlp", 4, width, [64, 16], ["plain", "invert"], 5, 1)
            run.update(width=width, state_bytes=4 * 64 * width)
            out.append(run)
        return out

    def deep(self):
        """M1, M6: peak bytes and seconds of the first call over depth."""
        out = []
        for depth in ([8, 128] if self.args.quick else
                      [8, 32, 128, 1000, 10000]):
            say(f"{depth} equal blocks: peak bytes")
            run = self.train("mlp", depth, 32, [64, 16],
                             ["invert"] if depth > 1000 else ["plain", "invert"],
                             5, 1)
            run.update(depth=depth, state_bytes=4 * 64 * 32)
            out.append(run)
        return out

    def overhead(self):
        """T6: what a step costs where its conditioner does nothing."""
        say("empty conditioners: the cost of a step")
        depth = 100
        run = self.train("empty", depth, 8, [2, 16],
                         ["plain", "checkpoint", "invert", "store"],
                         200, 20)
        run.update(depth=depth)
        return run

    def malloc(self):
        """T7: with malloc as it is."""
        net = next(n for n in NETS if n.name == "mlp")
        depth, batch = net.depths[1], net.batches[1]
        say("default malloc")
        run = self.train(net.kind, depth, net.width, [batch, *net.shape],
                         ["plain", "checkpoint", "memcnn", "revtorch",
                          "invert"], 8 if self.args.quick else 30, 60,
                         malloc="default")
        run.update(depth=depth, batch=batch)
        return run

    def run(self):
        result = {"format": 1, "machine": machine(), "threads": self.threads,
                  "quick": self.args.quick, "nets": {}}
        wanted = self.args.only
        for net in NETS:
            if not wanted or net.name in wanted:
                result["nets"][net.name] = self.network(net)
        for name in ("deep", "widths", "overhead", "malloc"):
            if not wanted or name in wanted:
                result[name] = getattr(self, name)()
        if not wanted or "kernels" in wanted:
            say("kernels")
            result["kernels"] = json.loads(
                call(self.bin / "inv-bench", "kernels",
                     env={"OMP_NUM_THREADS": self.threads}))
        return result


def machine():
    model = platform.processor() or platform.machine()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


# ------------------------------------------------------------------- figures

def median(run, name, key="seconds"):
    return statistics.median(run["algorithms"][name][key])


def spread(run, name):
    """Half the distance between the quartiles, relative."""
    samples = run["algorithms"][name]["seconds"]
    if len(samples) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2 / middle


def ratio(run, name, other="plain"):
    """Median over steps of the ratio of times in the same turn."""
    pairs = zip(run["algorithms"][name]["seconds"],
                run["algorithms"][other]["seconds"])
    return statistics.median(a / b for a, b in pairs)


def slope(points):
    """Least squares: increase of y per x, and the share that it explains."""
    n = len(points)
    if n < 2:
        return math.nan, math.nan
    mx = sum(x for x, _ in points) / n
    my = sum(y for _, y in points) / n
    sxx = sum((x - mx) ** 2 for x, _ in points)
    syy = sum((y - my) ** 2 for _, y in points)
    sxy = sum((x - mx) * (y - my) for x, y in points)
    if sxx == 0:
        return math.nan, math.nan
    fit = 1.0 if syy == 0 else sxy * sxy / (sxx * syy)
    return sxy / sxx, fit


def mib(b):
    return f"{b / 2**20:.2f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |",
             "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return "\n".join(lines)


def net_tables(result):
    out = []
    for net in NETS:
        runs = result["nets"].get(net.name)
        if not runs:
            continue
        out.append(f"### {net.name}: {net.about}\n")
        rows = []
        for run in runs:
            branches = 2 * run["depth"]
            for name in net.algorithms:
                a = run["algorithms"][name]
                peak = a["peak_bytes"]
                forward = statistics.median(
                    run["algorithms"]["plain"]["forward_seconds"])
                units = ((median(run, name) - median(run, "plain")) / forward)
                rows.append([
                    run["depth"], run["batch"], name, mib(peak),
                    f"{peak / run['state_bytes']:.1f}",
                    f"1/{run['algorithms']['plain']['peak_bytes'] / peak:.1f}",
                    f"{1e3 * median(run, name):.1f}",
                    f"{ratio(run, name):.2f}",
                    f"±{100 * spread(run, name):.0f} %",
                    f"{units:.2f}",
                    f"{a['evaluations'] / branches:g}"
                    if a["evaluations"] else "-",
                    f"{a['gradient_error']:.1e}",
                    "yes" if a["forward_bit_equal"] else "no"])
        out.append(table(
            ["blocks", "batch", "algorithm", "peak MiB", "in A", "of plain",
             "ms", "time / plain", "spread", "recompute units", "evaluations",
             "gradients off", "forward equal"], rows))
        out.append("")
        rows = []
        for name in net.algorithms:
            middle = runs[len(runs) // 2]["batch"]
            points = [(r["depth"], r["algorithms"][name]["peak_bytes"] /
                       r["state_bytes"])
                      for r in runs if r["batch"] == middle]
            times = [(r["depth"], 1e3 * median(r, name))
                     for r in runs if r["batch"] == middle]
            if len(points) > 1:
                (bytes_, fit), (ms, fit_ms) = slope(points), slope(times)
                rows.append([name, f"{bytes_:.3g}", f"{fit:.4f}", f"{ms:.3g}",
                             f"{fit_ms:.4f}"])
        if rows:
            out.append(table(["algorithm", "A per further block", "r²",
                              "ms per further block", "r²"], rows))
            out.append("")
    return out


def other_tables(result):
    out = []
    if "deep" in result:
        out.append("### Depth: equal MLP blocks, width 32, batch 64\n")
        rows = [[r["depth"],
                 f"{r['algorithms']['plain']['peak_bytes']:,}"
                 if "plain" in r["algorithms"] else "-",
                 f"{r['algorithms']['invert']['peak_bytes']:,}",
                 f"{median(r, 'invert'):.3f}",
                 f"{r['algorithms']['invert']['gradient_error']:.1e}"
                 if "plain" in r["algorithms"] else "-"]
                for r in result["deep"]]
        out += [table(["blocks", "peak, plain", "peak, invert", "s a step",
                       "gradients off"], rows), ""]
    if "widths" in result:
        out.append("### Width: 4 blocks, batch 64\n")
        rows = [[r["width"], mib(r["algorithms"]["invert"]["peak_bytes"]),
                 f"{r['algorithms']['invert']['peak_bytes'] / r['state_bytes']:.2f}"]
                for r in result["widths"]]
        out += [table(["width", "peak MiB, invert", "in A"], rows), ""]
    if "overhead" in result:
        run = result["overhead"]
        per = 2 * run["depth"]
        rows = [[name, f"{1e6 * median(run, name) / per:.1f}",
                 f"{1e6 * (median(run, name) - median(run, 'plain')) / per:.1f}"]
                for name in run["algorithms"]]
        out += ["### Cost of a step with an empty conditioner\n",
                table(["algorithm", "µs a half-block, forward and backward",
                       "above plain"], rows), ""]
    if "malloc" in result:
        run = result["malloc"]
        rows = [[name, f"{1e3 * median(run, name):.1f}",
                 f"{ratio(run, name):.2f}"] for name in run["algorithms"]]
        out += [f"### As users run it: default malloc, mlp, {run['depth']} "
                f"blocks, batch {run['batch']}\n",
                table(["algorithm", "ms", "time / plain"], rows), ""]
    if "kernels" in result:
        cases = result["kernels"]["cases"]
        copy = cases["copy"]["gigabytes_per_second"]
        rows = [[name, c["bytes_per_element"],
                 f"{c['gigabytes_per_second']:.1f}",
                 f"{100 * c['gigabytes_per_second'] / copy:.0f} %"]
                for name, c in cases.items()]
        out += ["### Kernels, float32, 32 M elements\n",
                table(["case", "bytes an element", "GB/s", "of copy"], rows),
                ""]
    return out


def tables(result):
    head = [f"Machine: {result['machine']}; {result['threads']} thread(s); "
            "freed memory kept in the process where nothing else is said."
            + (" Quick run." if result["quick"] else ""), ""]
    return "\n".join(head + net_tables(result) + other_tables(result))


# ---------------------------------------------------------------- comparison

def facts(result):
    """name → (value, relative spread); smaller is better."""
    out = {}
    for name, runs in result["nets"].items():
        for run in runs:
            for algorithm in run["algorithms"]:
                if algorithm not in ("invert", "recompute", "store"):
                    continue
                key = f"{name} {run['depth']}x{run['batch']} {algorithm}"
                out[key + " peak"] = (
                    run["algorithms"][algorithm]["peak_bytes"], 0.0)
                out[key + " time / plain"] = (
                    ratio(run, algorithm),
                    spread(run, algorithm) + spread(run, "plain"))
    for run in result.get("deep", []):
        out[f"depth {run['depth']} peak"] = (
            run["algorithms"]["invert"]["peak_bytes"], 0.0)
    if "overhead" in result:
        run = result["overhead"]
        out["cost of a step"] = (median(run, "invert"), spread(run, "invert"))
    return out


def compare(old, new):
    """Prints what became slower or larger beyond the spread; returns how many."""
    before, after = facts(old), facts(new)
    worse = 0
    for key in sorted(before.keys() & after.keys()):
        (a, da), (b, db) = before[key], after[key]
        if b > a * (1 + max(da + db, 0.0 if key.endswith("peak") else 0.03)):
            print(f"worse: {key}: {a:.4g} -> {b:.4g} (x {b / a:.3f})")
            worse += 1
    missing = sorted(before.keys() - after.keys())
    if missing:
        print(f"{len(missing)} figures of the old run were not measured: "
              + ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else ""))
    print(f"{len(before.keys() & after.keys())} figures compared, {worse} worse")
    return worse


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="under three minutes")
    p.add_argument("--only", type=lambda s: s.split(","), default=[],
                   metavar="NAME,...",
                   help=", ".join([n.name for n in NETS]) +
                   ", deep, widths, overhead, malloc, kernels")
    p.add_argument("--out", type=pathlib.Path,
                   default=ROOT / "build" / "bench.json")
    p.add_argument("--compare", type=pathlib.Path, metavar="OLD.json")
    p.add_argument("--with", type=pathlib.Path, metavar="NEW.json", dest="new",
                   help="with --compare: measure nothing")
    p.add_argument("--table", type=pathlib.Path, metavar="FILE.json",
                   help="print the tables of an earlier run")
    args = p.parse_args()
    try:
        if args.table:
            print(tables(json.loads(args.table.read_text())))
            return 0
        if args.new:
            result = json.loads(args.new.read_text())
        else:
            result = Bench(args).run()
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result))
            print(tables(result))
            say(f"wrote {args.out}")
        if args.compare:
            return 1 if compare(json.loads(args.compare.read_text()),
                                result) else 0
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
