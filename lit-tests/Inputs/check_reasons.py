"""check_reasons.py ROOT: docs/remarks.md has a section for each reason of
Reasons.def, in its order, and none for anything else."""

import re
import sys
from pathlib import Path

root = Path(sys.argv[1])
table = (root / "passes/support/Reasons.def").read_text()
table = "\n".join(l for l in table.splitlines() if not l.startswith("//"))
ids = re.findall(r'REASON\(\w+,\s*"([^"]+)"', table)
sections = re.findall(r"^### (\S+)$", (root / "docs/remarks.md").read_text(), re.M)
assert ids, "no reason found"
for missing in sorted(set(ids) - set(sections)):
    print(f"docs/remarks.md has no section '### {missing}'")
for unknown in sorted(set(sections) - set(ids)):
    print(f"docs/remarks.md explains '{unknown}', which is no reason")
if ids != sections:
    sys.exit("docs/remarks.md and Reasons.def differ")
