"""Imports many ONNX models in one process."""

import subprocess

from conftest import TOOL


def convert_all(jobs):
    """Imports (model, archive) pairs; an answer for each: "ok", or
    "error CODE MESSAGE"."""
    batch = TOOL.with_name("inv-onnx-batch")
    listing = "".join(f"{source}\t{target}\n" for source, target in jobs)
    done = subprocess.run([batch], input=listing, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == len(jobs), done.stdout + done.stderr
    return answers
