# How to run: scripts/check, or `lit -v lit-tests` in an entered environment.
#
# Where things are: inv-opt in $INVOPT_BIN (default build/bin), overridden by
# `--param inv_opt=PATH`; FileCheck and its friends from any LLVM. Substitutions:
#   inv-opt       the tool
#   %tool         its path, as an argument
#   %python       a Python that has torch (feature `torch`)
#   %archives     folder of the archives that Inputs/make_archives.py writes,
#                 once for all tests
#   %print        FILE -> `inv-opt FILE` with no passes and no summary
#   %exit N ...   runs a command, which must exit with N
import os
import shutil
import subprocess
import sys

import lit.formats

config.name = "inv-opt"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".ir", ".onnxtxt", ".test"]
config.excludes = ["Inputs"]
config.test_source_root = os.path.dirname(__file__)
root = os.path.dirname(config.test_source_root)
config.test_exec_root = os.path.join(root, "build", "lit")

tool = lit_config.params.get("inv_opt") or os.path.join(
    os.environ.get("INVOPT_BIN", os.path.join(root, "build", "bin")), "inv-opt")
if not os.access(tool, os.X_OK):
    lit_config.fatal(f"no inv-opt at {tool} (--param inv_opt=PATH, INVOPT_BIN)")


def llvm_tool(name):
    candidates = [name] + [f"{name}-{v}" for v in range(21, 13, -1)]
    for candidate in candidates:
        if path := shutil.which(candidate):
            return path
    for version in range(21, 13, -1):
        path = f"/usr/lib/llvm-{version}/bin/{name}"
        if os.access(path, os.X_OK):
            return path
    lit_config.fatal(f"{name} not found (Debian: llvm-14-tools)")


archives = os.path.join(config.test_exec_root, "archives")
maker = os.path.join(config.test_source_root, "Inputs", "make_archives.py")
python = os.environ.get("INVOPT_PYTHON", sys.executable)


def make_archives():
    """Writes the archives unless they are newer than their script."""
    stamp = os.path.join(archives, "stamp")
    if os.path.exists(stamp) and os.path.getmtime(stamp) > os.path.getmtime(maker):
        return True
    os.makedirs(archives, exist_ok=True)
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode:
        lit_config.warning(f"{python} has no torch: tests of archives are skipped")
        return False
    done = subprocess.run([python, maker, archives], capture_output=True, text=True)
    if done.returncode:
        lit_config.fatal("make_archives.py failed:\n" + done.stderr)
    open(stamp, "w").close()
    return True


if make_archives():
    config.available_features.add("torch")

config.environment["OMP_NUM_THREADS"] = "1"
config.environment["PYTHONDONTWRITEBYTECODE"] = "1"
for variable in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
    if variable in os.environ:
        config.environment[variable] = os.environ[variable]

config.substitutions += [
    ("%python", python),
    ("%tool", tool),
    ("%archives", archives),
    ("%print", f"{tool} -q --passes= "),
    ("%exit", os.path.join(config.test_source_root, "Inputs", "exit_code.sh")),
    # Only as a command: not in a path or an expected text.
    (r"(?<![-\w/])inv-opt(?= )", tool),
    (r"\bFileCheck\b(?= )", llvm_tool("FileCheck") + " --enable-var-scope"),
    (r"\bsplit-file\b(?= )", llvm_tool("split-file")),
    (r"\bnot\b(?= )", llvm_tool("not")),
    (r"\bcount\b(?= \d)", llvm_tool("count")),
]
