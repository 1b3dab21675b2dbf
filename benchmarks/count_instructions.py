"""Instructions of a step besides its arithmetic, forward and backward, against plain
autograd: what step_cost.py measures, on a machine that does other things too.
Counted by valgrind, so that equal code gives equal numbers (docs/benchmarks.md,
"Cost of a step").

    python benchmarks/count_instructions.py [--build build/dev] [--runtime LIB.so]
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
LENGTH = 100  # of the chain


def instructions(program, runtime, way, function, times):
    """Those of `times` calls of `function`, with all that it calls."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--toggle-collect={function}",
             f"--callgrind-out-file={folder}/out", program, runtime, way,
             str(LENGTH), str(times)], check=True, stderr=subprocess.PIPE)
        text = (pathlib.Path(folder) / "out").read_text()
    return int(re.search(r"(?m)^(?:totals|summary): (\d+)", text).group(1))


def per_step(program, runtime, way, function):
    """In a call that is not among the first, which make what is made once."""
    warm, more = 3, 5
    few = instructions(program, runtime, way, function, warm)
    many = instructions(program, runtime, way, function, warm + more)
    return (many - few) / more / LENGTH


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/dev")
    parser.add_argument("--runtime", type=pathlib.Path)
    options = parser.parse_args()
    program = options.build / "bin/inv-step-chain"
    runtime = (options.runtime or options.build / "lib/libinv_runtime.so").resolve()
    print("| | forward | backward |\n|---|---|---|")
    for way in ("plain", "steps"):
        counts = [per_step(program, runtime, way, f"inv_bench_{phase}")
                  for phase in ("forward", "backward")]
        print(f"| {way} | {counts[0]:,.0f} | {counts[1]:,.0f} |")


if __name__ == "__main__":
    main()
