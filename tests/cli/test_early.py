"""Ctrl-C before a command begins, made to come just while something is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

_, module, kind, workspace = sys.argv
signal.signal(signal.SIGINT, signal.SIG_IGN if kind == "ignored" else signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.argv[:] = ["zcell", "run", workspace, "--", "true"]
from zcell.cli.__main__ import main
main()
"""


def _interrupted_at(module: str, kind: str, workspace: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", PROGRAM, module, kind, str(workspace)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", ["typer", "zcell.cli.run", "zcell.cell"])
def test_ctrl_c_during_an_import_is_one_line(module: str, tmp_path: Path) -> None:
    done = _interrupted_at(module, "heard", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "zcell: interrupted; nothing was started\n")


def test_ctrl_c_that_the_caller_has_ignored_stays_ignored() -> None:
    done = _interrupted_at("typer", "ignored", "/nowhere")
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
