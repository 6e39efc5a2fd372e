"""What a node and its job's parent say to each other. Invariant: whatever arrives is checked before it is used.

Channel ``zcell.launch``. From the node, each a request: ``hello`` (answered with the work), ``renew``, ``output``, ``ended``. To
the node: ``stop``. Payloads are dicts of plain values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from zcell.fqcn import FQCN
from zcell.launch.remote.course import Outcome
from zcell.launch.spec import JobReturnCode

CHANNEL = "zcell.launch"
HELLO, RENEW, OUTPUT, ENDED, STOP = "hello", "renew", "output", "ended", "stop"
MAX_LINES = 4096
MAX_TEXT = 4000
_MAX_LABEL = 63


def node_name(parent: str, job_id: str) -> str:
    """Name of the cell of a job's node: ``launch_JOB`` below the job's parent."""
    label = f"launch_{job_id}"
    if len(label) > _MAX_LABEL:
        label = f"launch_{hashlib.sha256(job_id.encode()).hexdigest()[:40]}"
    return FQCN.join([parent, label])


@dataclass(frozen=True)
class Work:
    """What a node is to do. Holds no secret; those it has from its credentials file."""

    job_id: str
    command: list[str]
    """With `module`, the interpreter is the node's own: the command is then its arguments."""
    module: str
    env: dict[str, str]
    hand_over: dict[str, str]
    grace: float
    lease: float
    directory: str = ""
    """Where the command runs when its files are there already and do not travel."""

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def decode(cls, payload: Any) -> Work:
        """Raises `ValueError` naming the field that is wrong."""
        content = _dict(payload, {f.name for f in fields(cls)})
        for name in ("env", "hand_over"):
            table = content[name]
            if not isinstance(table, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in table.items()):
                raise ValueError(f"{name} must map str to str")
        command = content["command"]
        if not isinstance(command, list | tuple) or not all(isinstance(word, str) for word in command):
            raise ValueError("command must be a list of str")
        return cls(
            _text(content, "job_id"),
            list(command),
            _text(content, "module"),
            dict(content["env"]),
            dict(content["hand_over"]),
            _number(content, "grace"),
            _number(content, "lease"),
            _text(content, "directory"),
        )


@dataclass(frozen=True)
class Greeting:
    """How a node introduces itself."""

    instance: str
    run: int
    host: str

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def decode(cls, payload: Any) -> Greeting:
        """Raises `ValueError` naming the field that is wrong."""
        content = _dict(payload, {f.name for f in fields(cls)})
        return cls(_text(content, "instance"), int(_number(content, "run")), _text(content, "host"))


@dataclass(frozen=True)
class LastWords:
    """How a job ended, as its node saw it, and what of its files travelled."""

    instance: str
    outcome: Outcome
    files: dict[str, dict[str, Any] | None]

    def encode(self) -> dict[str, Any]:
        outcome = asdict(self.outcome) | {"code": int(self.outcome.code), "reason": self.outcome.reason[:MAX_TEXT]}
        return {"instance": self.instance, "outcome": outcome, "files": self.files}

    @classmethod
    def decode(cls, payload: Any) -> LastWords:
        """Raises `ValueError` naming the field that is wrong."""
        content = _dict(payload, {"instance", "outcome", "files"})
        outcome = _dict(content["outcome"], {"code", "reason", "exit_code", "failure", "kept"})
        exit_code = outcome["exit_code"]
        if exit_code is not None and not isinstance(exit_code, int):
            raise ValueError("exit_code must be an int or None")
        code = JobReturnCode(int(_number(outcome, "code")))
        if code is JobReturnCode.UNKNOWN:
            raise ValueError("a job does not end in UNKNOWN")
        files = content["files"]
        if not isinstance(files, dict) or not all(isinstance(v, dict | None) for v in files.values()):
            raise ValueError("files must map a phase to what travelled")
        reason, failure, kept = (_text(outcome, name) for name in ("reason", "failure", "kept"))
        return cls(_text(content, "instance"), Outcome(code, reason, exit_code, failure, kept), dict(files))


@dataclass(frozen=True)
class OutputBatch:
    """Lines of a job's output, in their order. `number` counts batches, so that one that comes twice counts once."""

    instance: str
    number: int
    lines: list[tuple[str, bytes]]

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def decode(cls, payload: Any) -> OutputBatch:
        """Raises `ValueError` naming the field that is wrong."""
        content = _dict(payload, {f.name for f in fields(cls)})
        lines = content["lines"]
        if not isinstance(lines, list | tuple) or len(lines) > MAX_LINES:
            raise ValueError(f"lines must be a list of at most {MAX_LINES}")
        taken = []
        for item in lines:
            if not isinstance(item, list | tuple) or len(item) != 2 or item[0] not in ("stdout", "stderr"):
                raise ValueError("a line is a pair of its stream and its bytes")
            if not isinstance(item[1], bytes | bytearray | memoryview):
                raise ValueError("a line is made of bytes")
            taken.append((str(item[0]), bytes(item[1])))
        return cls(_text(content, "instance"), int(_number(content, "number")), taken)


def renewal(payload: Any) -> tuple[str, str]:
    """Instance and phase of a sign of life. Raises `ValueError` naming the field that is wrong."""
    content = _dict(payload, {"instance", "phase"})
    return _text(content, "instance"), _text(content, "phase")


def stop_order(payload: Any) -> float | None:
    """The grace of an order to stop, None when there is none. Raises `ValueError`."""
    grace = _dict(payload, {"grace"})["grace"]
    if grace is None:
        return None
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not grace >= 0:
        raise ValueError("grace must be a number of seconds from 0")
    return float(grace)


def _dict(payload: Any, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(payload, dict) or payload.keys() != names:
        raise ValueError(f"expected a dict of {', '.join(sorted(names))}")
    return payload


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a str")
    return value


def _number(content: Mapping[str, Any], name: str) -> float:
    value = content[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{name} must be a number from 0")
    return value
