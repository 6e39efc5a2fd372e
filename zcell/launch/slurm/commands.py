"""Slurm's own programs. Invariant: each ends within its limit, or its silence is an error of the engine and not of the job."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from zcell.errors import LaunchError
from zcell.launch.remote.engine import EngineError

LIMIT = 30.0
NEEDED = ("sbatch", "squeue", "scancel", "sbcast", "scontrol", "sinfo")


_NO_CLUSTER = (
    "Could not establish a configuration source",
    "Unable to process configuration file",
    "Unable to contact slurm controller",
    "Connection refused",
    "Socket timed out on send/recv operation",
    "no answer within",
)


class SlurmError(EngineError):
    """A program of Slurm failed; `text` is what it wrote."""

    def __init__(self, program: str, text: str) -> None:
        super().__init__(text if text.startswith(f"{program}: ") else f"{program}: {text}")
        self.text = text
        self.unreachable = any(words in text for words in _NO_CLUSTER)


class Commands:
    """Runs them, from `directory` or from PATH."""

    def __init__(self, directory: str = "") -> None:
        self._directory = directory

    def check(self, who: str) -> None:
        """Raise `LaunchError` naming a program that is not there."""
        for program in NEEDED:
            if shutil.which(program, path=self._directory or None) is None:
                where = f"in {self._directory}" if self._directory else "on PATH"
                raise LaunchError(
                    f"{who}: there is no {program} {where}; install Slurm's client programs on this machine, "
                    "or set the slurm launcher's setting bin to their directory"
                )

    def run(self, program: str, *arguments: str, stdin: str | None = None) -> str:
        """What it wrote to stdout. Raises `SlurmError`."""
        return self.run_both(program, arguments, stdin)[0]

    def run_both(self, program: str, arguments: Sequence[str], stdin: str | None = None) -> tuple[str, str]:
        """What it wrote to stdout and stderr. Raises `SlurmError`."""
        path = str(Path(self._directory, program)) if self._directory else program
        try:
            done = subprocess.run(
                [path, *arguments],
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmError(program, f"no answer within {LIMIT:g} s") from error
        except OSError as error:
            raise SlurmError(program, f"cannot be run: {error}") from error
        if done.returncode != 0:
            text = " ".join((done.stderr or done.stdout).split()) or f"ended with code {done.returncode}"
            raise SlurmError(program, text)
        return done.stdout, done.stderr
