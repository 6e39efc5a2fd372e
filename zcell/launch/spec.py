"""What a job is and how it ends. Invariant: a `JobSpec` that exists is valid, and holds no secret."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zcell.workspace.context import check_job_id

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED_PREFIX = "ZCELL_"
"""Variables with this prefix belong to the launcher; a job's own settings may not set them."""


class JobReturnCode(IntEnum):
    """The outcome of a job as its launcher sees it; the command's own exit code is `JobHandle.exit_code`."""

    SUCCESS = 0
    EXECUTION_ERROR = 1
    ABORTED = 9
    UNKNOWN = 127
    """Not ended yet, or not known to have ended."""

    @classmethod
    def from_exit_code(cls, code: int) -> JobReturnCode:
        """0 is SUCCESS, 9 is how a job says that it was aborted, everything else is EXECUTION_ERROR."""
        return {0: cls.SUCCESS, 9: cls.ABORTED}.get(code, cls.EXECUTION_ERROR)


class JobState(Enum):
    """Where a job is. It only ever moves down this list; FINISHED is terminal."""

    PENDING = "pending"
    """Accepted by the engine, not started."""
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One job. Raises `ValueError` or `TypeError` naming the argument and what was expected.

    Exactly one of `command` (program and arguments) and `module` (run as ``python -u -m MODULE ARGUMENTS``) is given.
    """

    job_id: str
    """1 to 63 of letters, digits, ``_`` and ``-``; also the last label of the job's cell name."""
    command: Sequence[str] = ()
    module: str = ""
    arguments: Sequence[str] = ()
    """Arguments of `module`."""
    workspace: Path | None = None
    """Root of the workspace: ``local/`` and the job's directory travel. None: the job starts in an empty directory."""
    job_directory: Path | None = None
    """The job's directory at the parent, when it is not ``workspace/JOB_ID``."""
    results: Path | None = None
    """Where the results go. None: back into the job's directory."""
    excludes: Sequence[str] = ()
    """Patterns of what does not travel, relative to the workspace, besides what never does (see `zcell.workspace.patterns`)."""
    skip_links: bool = False
    """Leave links, devices and sockets at home with a warning, instead of refusing the launch."""
    code: Sequence[Path | str] = ()
    """Directories for ``PYTHONPATH``: below the job's directory, where relative paths start, or the workspace's ``local/``."""
    site: str = "local"
    """Where it runs; chooses the launcher and its settings."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of the command, on top of what the launcher gives it. No secrets: other processes of this user see them."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """What it needs: ``cpus``, ``memory``, ``gpus`` and what else its launcher knows. A process gets no limits from them."""
    launcher_spec: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Site (or ``"default"``) to one launcher's name to its settings."""
    resource_spec: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Site to its resources; a launcher's name in there holds its settings (the older place for them)."""
    study: str = ""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    log_file: Path | None = None
    """Everything the job writes to stdout and stderr is appended here. None: only the end of it is kept, for `logs()`."""

    def __post_init__(self) -> None:
        check_job_id(self.job_id)
        if any(isinstance(value, str | bytes) for value in (self.command, self.arguments, self.code)):
            raise TypeError(
                "command, arguments and code must be sequences of str, not one string: split it, as shlex.split does"
            )
        if bool(self.command) == bool(self.module):
            raise ValueError(f"job {self.job_id}: give exactly one of command and module")
        if self.arguments and not self.module:
            raise ValueError(f"job {self.job_id}: arguments belong to module; put those of a command into command")
        for word in (*self.command, self.module, *self.arguments):
            if not isinstance(word, str) or "\0" in word:
                raise ValueError(f"job {self.job_id}: a command is made of str without NUL, got {word!r}")
        if self.command and not self.command[0]:
            raise ValueError(f"job {self.job_id}: the name of the program is empty")
        if not (isinstance(self.grace, int | float) and math.isfinite(self.grace) and self.grace >= 0):
            raise ValueError(f"job {self.job_id}: grace must be a number of seconds from 0, got {self.grace!r}")
        for name in ("env", "resources", "launcher_spec", "resource_spec"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise TypeError(f"job {self.job_id}: {name} must be a mapping, got {value!r}")
            object.__setattr__(self, name, MappingProxyType(dict(value)))
        self._check_env()
        for name in ("workspace", "job_directory", "results", "log_file"):
            place = getattr(self, name)
            if place is not None:
                object.__setattr__(self, name, Path(place))
        object.__setattr__(self, "command", tuple(self.command))
        object.__setattr__(self, "arguments", tuple(self.arguments))
        object.__setattr__(self, "code", tuple(self.code))
        object.__setattr__(self, "excludes", tuple(self.excludes))

    def _check_env(self) -> None:
        for name, value in self.env.items():
            if not isinstance(name, str) or not _VARIABLE.match(name):
                raise ValueError(f"job {self.job_id}: env has the name {name!r}; expected letters, digits and '_'")
            if name.startswith(RESERVED_PREFIX):
                raise ValueError(
                    f"job {self.job_id}: env sets {name}; names that start with {RESERVED_PREFIX} are the launcher's"
                )
            if not isinstance(value, str) or "\0" in value:
                raise ValueError(f"job {self.job_id}: env[{name!r}] must be a str without NUL")

    def argv(self, python: str = "python3") -> list[str]:
        """The command line; `python` is the interpreter that runs a `module`."""
        if self.command:
            return list(self.command)
        return [python, "-u", "-m", self.module, *self.arguments]
