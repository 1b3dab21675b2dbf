"""clang-tidy over build/dev's compile commands; called by scripts/lint --tidy.

A file costs 13 to 40 s, nearly all of it LibTorch's headers, so a file that
passed is not looked at again while nothing changed: its key hashes the file,
every file of ours that it includes (directly or not), .clang-tidy, the compile
command and clang-tidy's version. Only passes are remembered.

With --seconds no file is started after that time; how many were left out is
said. With --list only the files that a file names are looked at.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build/dev"
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.M)


def included(path, seen):
    """`path` and all files of ours that it includes, into `seen`."""
    if path in seen:
        return
    seen.add(path)
    for name in INCLUDE.findall(path.read_text(errors="replace")):
        for base in (path.parent, ROOT, ROOT / "runtime/include"):
            candidate = base / name
            if candidate.is_file():
                included(candidate.resolve(), seen)
                break


def key_of(path, command, common):
    files = set()
    included(path, files)
    digest = hashlib.sha256(common)
    # The checkout's place is no part of the key: clones share what passed.
    digest.update(command.replace(str(ROOT), "").encode())
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0")
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def tidy(path):
    run = subprocess.run(
        ["clang-tidy", "--quiet", "-p", str(BUILD),
         # Flags that only g++ knows are no finding.
         "--extra-arg=-Wno-unknown-warning-option", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    return run.returncode, run.stdout


def pending(cache):
    """The files without a remembered pass: path -> the mark to leave."""
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True,
                             check=True).stdout
    common = version + (ROOT / ".clang-tidy").read_bytes()
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    todo, total = {}, 0
    for entry in commands:
        path = pathlib.Path(entry["file"]).resolve()
        if ROOT not in path.parents or BUILD in path.parents or \
                path.suffix != ".cpp" or path in todo:
            continue
        total += 1
        mark = cache / key_of(path, entry["command"], common)
        if not mark.exists():
            todo[path] = mark
    return todo, total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--list", type=pathlib.Path, metavar="FILE",
                        help="look at the files that FILE names, no others")
    args = parser.parse_args()
    if not shutil.which("clang-tidy"):
        print("lint: clang-tidy is not installed", file=sys.stderr)
        return 2
    args.cache.mkdir(parents=True, exist_ok=True)
    todo, total = pending(args.cache)
    if args.list:
        listed = {ROOT / name for name in args.list.read_text().split()}
        missing = [p for p in listed if not p.is_file()]
        if missing:
            print(f"lint: {args.list} names {missing[0]}, which is no file",
                  file=sys.stderr)
            return 2
        todo = {path: mark for path, mark in todo.items() if path in listed}
        total = len(listed)
    begin = time.monotonic()
    passed, failed, left = 0, [], []

    def work(path):
        if time.monotonic() - begin > args.seconds:
            return path, None, ""
        return (path, *tidy(path))

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        # Small files first: more of them in the same time.
        order = sorted(todo, key=lambda p: (p.stat().st_size, p))
        for path, code, output in pool.map(work, order):
            name = path.relative_to(ROOT)
            if code is None:
                left.append(name)
            elif code == 0:
                passed += 1
                todo[path].touch()
            else:
                failed.append(name)
                print(output)
    print(f"lint: clang-tidy: {total} files, {total - len(todo)} known good, "
          f"{passed} looked at and good, {len(failed)} with findings, "
          f"{len(left)} left out", file=sys.stderr)
    for name in failed:
        print(f"lint: clang-tidy has findings in {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
