"""What a job asks of Slurm. Invariant: a value that could become another line or another option of a batch script is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from zcell.errors import LaunchError
from zcell.launch.spec import JobSpec

# option of sbatch: what its value looks like
_WORD = re.compile(r"[A-Za-z0-9_.:=+/@-]+\Z")
_LIST = re.compile(r"[A-Za-z0-9_.:=+/@,*-]+\Z")
_NODES = re.compile(r"[A-Za-z0-9_.,\[\]-]+\Z")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_.*&|,\[\]()-]+\Z")
OPTIONS = {
    "partition": (_LIST, "partitions, with commas between them"),
    "account": (_WORD, "an account"),
    "qos": (_WORD, "a quality of service"),
    "reservation": (_LIST, "a reservation"),
    "constraint": (_CONSTRAINT, "features, as sbatch takes them"),
    "nodelist": (_NODES, "nodes, such as node[1-4]"),
    "exclude": (_NODES, "nodes, such as node[1-4]"),
    "gres": (_LIST, "generic resources, such as gpu:a100:2"),
    "licenses": (_LIST, "licenses, such as name:2"),
}
RESOURCES = {
    "cpus": "whole number from 1: CPUs of the job",
    "memory": "bytes, or a text such as 4G: memory of the job on each node",
    "gpus": "whole number, or TYPE:NUMBER: GPUs of the job",
    "num_of_gpus": "the same as gpus",
    "time_limit": "seconds, or a text such as 1-12:00:00",
    "nodes": "whole number from 1: nodes of the job; the command runs on the first",
}
OWN_SETTINGS = {name: f"sbatch --{name}: {what}" for name, (_, what) in OPTIONS.items()} | {
    **RESOURCES,
    "directory": "directory on the node's own disk where the job's private directory is made (default /tmp)",
    "credentials": "how they reach the node: sbcast (default), or shared, by a file of mode 0600 in shared_directory",
    "shared_directory": "directory that this machine and the nodes see under the same path",
    "setup": "list of shell lines for the node, before its python starts, such as module load",
    "export": "list of names of variables that the job gets from this process (default none)",
    "output": "file for what the node itself writes, as sbatch --output takes it (default none)",
    "requeue": "true: the job may be started again from the beginning when its node fails",
    "poll_interval": "longest seconds between two looks at the queue (default 5)",
    "bin": "directory of sbatch and its kin, when they are not on PATH",
}
_TIME = re.compile(r"(\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2})\Z")
_MEMORY = re.compile(r"\d+[KMGT]?\Z")
_GPUS = re.compile(r"([A-Za-z0-9_.-]+:)?[1-9]\d*\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PATH = re.compile(r"/[A-Za-z0-9_./%+@-]*\Z")


@dataclass(frozen=True)
class SlurmSettings:
    """The launcher's settings, checked."""

    options: Mapping[str, str]
    resources: Mapping[str, Any]
    directory: str
    credentials: str
    shared_directory: str
    setup: tuple[str, ...]
    export: tuple[str, ...]
    output: str
    requeue: bool
    poll_interval: float
    bin: str

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> SlurmSettings:
        """Raises `LaunchError` naming the setting and what was expected."""
        read = _Reader(settings)
        parsed = cls(
            options={name: read.matching(name, pattern, what) for name, (pattern, what) in OPTIONS.items() if name in settings},
            resources={name: settings[name] for name in RESOURCES if name in settings},
            directory=read.path("directory", "/tmp"),  # noqa: S108  on the node; the private directory in it is new or refused
            credentials=read.one_of("credentials", ("sbcast", "shared")),
            shared_directory=read.path("shared_directory", ""),
            setup=read.lines("setup"),
            export=read.names("export"),
            output=read.path("output", ""),
            requeue=read.flag("requeue"),
            poll_interval=read.seconds("poll_interval", 5.0),
            bin=read.path("bin", ""),
        )
        if parsed.credentials == "shared" and not parsed.shared_directory:
            raise LaunchError(
                "the slurm launcher's setting credentials is 'shared'; set shared_directory to where nodes see it too"
            )
        resource_options(parsed.resources, "the slurm launcher")
        return parsed


class _Reader:
    """Takes values out of settings."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def _wrong(self, name: str, expected: str) -> LaunchError:
        return LaunchError(f"the slurm launcher's setting {name} must be {expected}, got {self._settings[name]!r}")

    def matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        value = self._settings[name]
        if not isinstance(value, str) or not pattern.match(value):
            raise self._wrong(name, what)
        return value

    def path(self, name: str, default: str) -> str:
        if self._settings.get(name) is None:
            return default
        value = str(self._settings[name])
        if not _PATH.match(value) or ".." in PurePosixPath(value).parts:
            raise self._wrong(name, "an absolute path of letters, digits and _ . % + @ -")
        return value.rstrip("/") or "/"

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value = self._settings.get(name, choices[0])
        if value not in choices:
            raise self._wrong(name, " or ".join(choices))
        return str(value)

    def lines(self, name: str) -> tuple[str, ...]:
        value = self._settings.get(name, ())
        if isinstance(value, str) or not all(isinstance(v, str) and not re.search(r"[\0\r\n]|\A\s*#SBATCH", v) for v in value):
            raise self._wrong(name, "a list of shell lines")
        return tuple(value)

    def names(self, name: str) -> tuple[str, ...]:
        value = self._settings.get(name, ())
        if isinstance(value, str) or not all(isinstance(v, str) and _NAME.match(v) for v in value):
            raise self._wrong(name, "a list of names of variables")
        return tuple(value)

    def flag(self, name: str) -> bool:
        value = self._settings.get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self._settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._wrong(name, "a number of seconds above 0")
        return float(value)


def job_resources(settings: SlurmSettings, spec: JobSpec) -> dict[str, Any]:
    """What `spec` asks for: its own resources over those of its site over the launcher's."""
    site = {n: v for n, v in spec.resource_spec.get(spec.site, {}).items() if not isinstance(v, Mapping)}
    return {**settings.resources, **site, **spec.resources}


def resource_options(resources: Mapping[str, Any], who: str) -> dict[str, str]:
    """Options of sbatch for `resources`. Raises `LaunchError` naming `who` asks for what cannot be."""
    unknown = sorted(resources.keys() - RESOURCES.keys())
    if unknown:
        raise LaunchError(f"{who}: slurm has no resource {unknown[0]!r}; it has {', '.join(RESOURCES)}")
    options: dict[str, str] = {}
    for name, value in resources.items():
        text: str | None = _RENDER[name](value)
        if text is None:
            raise LaunchError(f"{who}: the resource {name} must be {RESOURCES[name]}, got {value!r}")
        option, _, rest = text.partition("=")
        options[option] = rest
    return options


def _whole(option: str, value: Any) -> str | None:
    return f"{option}={value}" if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _memory(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return f"mem={math.ceil(value / 2**20)}M"
    return f"mem={value}" if isinstance(value, str) and _MEMORY.match(value) else None


def _gpus(value: Any) -> str | None:
    if value == 0 and not isinstance(value, bool):
        return "gpus-none="
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return f"gpus-gres=gpu:{value}"
    return f"gpus-gres=gpu:{value}" if isinstance(value, str) and _GPUS.match(value) else None


def _time(value: Any) -> str | None:
    if isinstance(value, str):
        return f"time={value}" if _TIME.match(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    minutes, seconds = divmod(math.ceil(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"time={days}-{hours:02}:{minutes:02}:{seconds:02}"


_RENDER: dict[str, Callable[[Any], str | None]] = {
    "cpus": lambda value: _whole("cpus-per-task", value),
    "memory": _memory,
    "gpus": _gpus,
    "num_of_gpus": _gpus,
    "time_limit": _time,
    "nodes": lambda value: _whole("nodes", value),
}
