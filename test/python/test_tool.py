"""inv-opt on whole archives: what it writes, where, and what it leaves alone."""

import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from compare import distance
from conftest import FORMS, LIBRARIES, MODELS, PLAIN, ROOT, TOOL
from test_load import BOUNDS, batch, step

ALL = [(name, form) for name in MODELS | PLAIN for form in FORMS]
BOTH = [(name, form) for name in MODELS for form in FORMS]


def run(*arguments, code=0, **how):
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True,
                          text=True, **how)
    assert done.returncode == code, done.stderr
    return done


def read(path):
    return pathlib.Path(path).read_bytes()


# ------------------------------------------------------------ twice, and back


@pytest.mark.parametrize("name,form", ALL)
def test_a_second_run_changes_nothing(archives, tmp_path, name, form):
    original, rewritten = archives(name, form)
    run(rewritten, "-q", "-o", tmp_path / "again.pt")
    assert read(tmp_path / "again.pt") == read(rewritten)
    assert (read(rewritten) == read(original)) == (name in PLAIN)


@pytest.mark.parametrize("name,form", BOTH)
def test_inlined_steps_give_the_plain_model(archives, tmp_path, name, form):
    original, rewritten = archives(name, form)
    plain = tmp_path / "plain.pt"
    run(rewritten, "-q", "--passes=inline-steps", "--verify-each", "-o", plain)
    # It needs no library.
    alone = subprocess.run(
        [sys.executable, "-c", "import sys, torch; "
         f"print('inv' in torch.jit.load({str(plain)!r}).code)"],
        capture_output=True, text=True)
    assert (alone.returncode, alone.stdout) == (0, "False\n"), alone.stderr
    expected, actual = torch.jit.load(original), torch.jit.load(str(plain))
    assert not any(n.startswith("inv_") for n, _ in actual.named_modules())
    images, labels = batch()
    want, reference = step(expected, images, labels)
    have, gradients = step(actual, images, labels)
    assert torch.equal(have, want)
    # The same operators, in an order in which sums of gradients may round
    # otherwise.
    assert distance(gradients, reference) <= BOUNDS["float32"]


@pytest.mark.parametrize("name,form", BOTH)
def test_printed_steps_are_read_back(archives, tmp_path, name, form):
    _, rewritten = archives(name, form)
    first, second = tmp_path / "1.ir", tmp_path / "2.ir"
    run(rewritten, "-q", "-S", "--passes=", "-o", first)
    run(first, "-q", "--passes=", "--verify-each", "-o", second)
    text = first.read_text()
    assert second.read_text() == text
    # All of them: a call and a submodule each.
    calls = re.findall(r" = inv::(?:coupling|bijection|checkpoint)\(", text)
    steps = re.findall(r"^#   submodule inv_step_\d+ : ", text, re.M)
    assert len(calls) == len(steps) == MODELS[name][1]


# ------------------------------------------------------------------- writing


@pytest.mark.parametrize("through", ["file", "link"])
def test_the_input_is_written_over(archives, tmp_path, through):
    original, rewritten = archives("revmlp", "scripted")
    model = tmp_path / "model.pt"
    shutil.copy(original, model)
    model.chmod(0o640)
    target = model
    if through == "link":
        target = tmp_path / "link.pt"
        target.symlink_to("model.pt")
    run(target, "-q", "-o", target)
    assert read(model) == read(rewritten)
    assert model.stat().st_mode & 0o777 == 0o640
    assert target.is_symlink() == (through == "link")
    assert sorted(os.listdir(tmp_path)) == sorted({"model.pt", target.name})


def test_a_full_disk_leaves_the_old_file(archives, tmp_path):
    original, rewritten = archives("revmlp", "scripted")
    target = tmp_path / "model.pt"
    target.write_text("old")
    limit = len(read(rewritten)) // 2

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = run(original, "-q", "-o", target, code=4, preexec_fn=full,
               # Python ignores SIGXFSZ; a shell does not, and nor does this.
               restore_signals=False)
    assert "model.pt: cannot be written (File too large)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_full_file_system_leaves_the_old_file(archives, tmp_path):
    original, _ = archives("revmlp", "scripted")
    script = ('mount -t tmpfs -o size=64k none "$1" || exit 77; '
              'echo old > "$1/model.pt"; '
              '"$2" -q "$3" -o "$1/model.pt"; echo "code $?"; '
              'cat "$1/model.pt"; ls -A "$1"')
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", tmp_path,
                           TOOL, original], capture_output=True, text=True)
    if "code" not in done.stdout:
        pytest.skip("no file system can be mounted here")
    assert done.stdout.split("\n")[:3] == ["code 4", "old", "model.pt"]
    assert done.stdout.count("\n") == 3
    assert "cannot be written (No space left on device)" in done.stderr


# ------------------------------------------------------------------- remarks


def documented(section):
    """The keys of the tables under a heading of docs/formats.md, in order."""
    text = (ROOT / "docs/formats.md").read_text()
    text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [re.findall(r"^\| `([^`]+)` \|", table, re.M) for table in tables]


@pytest.mark.parametrize("name,form", [("revvit", "scripted"),
                                       ("resnet", "traced")])
def test_remarks_are_as_documented(archives, tmp_path, name, form):
    original, _ = archives(name, form)
    file = tmp_path / "remarks.json"
    run(original, "-q", f"--remarks-output={file}")
    top, keys = documented("Remarks as JSON")
    answer = json.loads(file.read_text())
    assert list(answer) == top
    assert answer["format"] == 1
    assert answer["input"] == original
    version = run("--version").stdout.split()[1]
    assert answer["tool"] == {"name": "inv-opt", "version": version}

    passes = re.findall(r"^(?!default:)(\S+) ", run("--list-passes").stdout, re.M)
    reasons = re.findall(r"^### (\S+)$",
                         (ROOT / "docs/remarks.md").read_text(), re.M)
    assert answer["remarks"]
    for remark in answer["remarks"]:
        assert list(remark) == keys
        assert all(isinstance(value, str) for value in remark.values())
        assert remark["kind"] in ("passed", "missed", "analysis")
        assert remark["pass"] in passes
        assert remark["method"] == "forward"
        assert remark["message"] and "\n" not in remark["node"]
        missed = remark["kind"] == "missed"
        assert (remark["reason"] in reasons) == missed
        assert bool(remark["reason"]) == bool(remark["suggestion"]) == missed
        if remark["source"]:
            assert re.fullmatch(r"\w+\.py:\d+:\d+", remark["source"])
    kinds = {remark["kind"] for remark in answer["remarks"]}
    assert ("passed" in kinds) == (name in MODELS)
    if name in PLAIN: # each block says why, at its own line
        assert [(r["reason"], r["source"].split(":")[0])
                for r in answer["remarks"] if r["kind"] == "missed"
                ][:2] == [("residual", "resnet.py")] * 2


# ----------------------------------------------------------- other libraries


class Squashed(torch.nn.Module):
    """Two half blocks, one with a network of LibTorch's, one of a library's."""

    def __init__(self):
        super().__init__()
        self.f = torch.nn.Linear(4, 4)
        self.g = torch.nn.Linear(4, 4)

    def forward(self, x):
        x1, x2 = torch.sin(x).chunk(2, dim=1)
        y1 = x1 + torch.ops.inv_test.squash(self.f(x2))
        y2 = x2 + torch.tanh(torch.tanh(self.g(y1)))
        return torch.cat([y1, y2], dim=1).exp()


@pytest.fixture(scope="module")
def operators(tmp_path_factory):
    """The library, and an archive that needs it."""
    library = LIBRARIES / "libinv_test_good.so"
    torch.ops.load_library(str(library))
    path = tmp_path_factory.mktemp("operators") / "model.pt"
    torch.manual_seed(0)
    torch.jit.script(Squashed()).save(str(path))
    return library, path


def test_operators_of_a_library(operators, tmp_path):
    library, path = operators
    target = tmp_path / "out.pt"
    done = run(path, "-q", "--remarks=passed,missed", "--require-steps=1",
               f"--load-library={library}", "-o", target)
    # It may do anything at all, so it does not run again.
    assert "[effect-inside]" in done.stderr
    original = torch.jit.load(str(path))
    rewritten = torch.jit.load(str(target))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    answers = []
    for model in (original, rewritten):
        y = model(x)
        answers.append((y, torch.autograd.grad(y.sum(), model.parameters())))
    assert torch.equal(answers[0][0], answers[1][0])
    for expected, actual in zip(answers[0][1], answers[1][1]):
        torch.testing.assert_close(actual, expected)


def test_a_missing_library_is_named(operators, tmp_path):
    _, path = operators
    done = run(path, "-q", "-o", tmp_path / "out.pt", code=2)
    assert re.fullmatch("inv-opt: error: .*unknown operator inv_test::squash; "
                        "name the library that has it with "
                        "--load-library=LIB.so\n", done.stderr)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name,message", [
    ("libinv_test_broken.so", "undefined symbol"),
    ("libinv_test_clash.so", "Tried to register an operator (aten::relu"),
    ("libinv_test_text.so", "invalid ELF header"),
])
def test_a_library_that_does_not_load(operators, tmp_path, name, message):
    _, path = operators
    library = LIBRARIES / name
    if "text" in name:
        library = tmp_path / name
        library.write_text("This is no library.\n" * 100)
    target = tmp_path / "out.pt"
    target.write_text("old")
    done = run(path, "-q", f"--load-library={library}", "-o", target, code=2)
    assert done.stderr.startswith(f"inv-opt: error: --load-library={library}: ")
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert target.read_text() == "old"
