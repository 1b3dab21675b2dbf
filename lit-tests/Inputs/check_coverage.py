"""check_coverage.py ROOT INV_OPT: each pass, rule family and reason of refusal has
the lit file that is named after it, and each of those files has the cases that
it must have."""

import re
import subprocess
import sys
from pathlib import Path

root = Path(sys.argv[1])
tests = root / "lit-tests"
problems = []


def table(path, macro, pattern):
    """The names in a .def file, without its comments."""
    lines = (root / path).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("//"))
    names = re.findall(macro + pattern, text)
    assert names and len(names) == text.count(macro + "("), path
    return names


def text_of(what, path):
    if not path.exists():
        problems.append(f"{what} has no {path.relative_to(root)}")
        return ""
    return path.read_text()


def need(what, path, *patterns):
    text = text_of(what, path)
    for pattern in patterns:
        if text and not re.search(pattern, text, re.M):
            problems.append(f"{path.relative_to(root)}: nothing like {pattern!r}")


listed = subprocess.run([sys.argv[2], "--list-passes"], check=True, text=True,
                        capture_output=True).stdout
passes = re.findall(r"^(?!default:)(\S+) ", listed, re.M)
assert passes == table("passes/Passes.def", "PASS", r'\("([^"]+)"'), passes
for name in passes:
    stem = re.sub(r"\W+", "-", name).strip("-")
    folder = tests / "transforms" / stem
    files = sorted(folder.glob("*.ir")) if folder.is_dir() else []
    for path in files or [folder.with_suffix(".ir")]:
        need(f"pass {name}", path, r"^# RUN: .*inv-opt ", r"^# [A-Z]+-NOT: ")

for name in table("passes/rules/Rules.def", "RULE", r'\("([^"]+)"'):
    # What the rule undoes, what is refused with a reason, what is no candidate.
    need(f"rule {name}", tests / "rules" / f"{name}.ir", r"^# RUN: .*inv-opt ",
         r"^# CHECK: .*(rebuild|inv::|Step_)", r"^# Missed: ", r"^# Invalid: ")

for name in table("passes/support/Reasons.def", "REASON", r'\(\w+,\s*"([^"]+)"'):
    # The reason with its source line, what can be done, what stays.
    need(f"reason {name}", tests / "remarks" / f"{name}.ir",
         rf"^# CHECK: .*\.py:.*:\d+: (missed|analysis): .*\[{name}\]$",
         r"^# CHECK-NEXT: try: ", r"^# CHECK(-NOT: inv::|: (prim|aten)::)")

print("\n".join(problems))
sys.exit(1 if problems else 0)
