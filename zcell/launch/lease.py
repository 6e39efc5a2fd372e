"""The inherited socket between a launcher and its job's runner. Invariant: each end learns of the other's death at once.

Only these two processes hold it, so the kernel ends it when either dies in whatever way, SIGKILL included: the runner then
ends its job, the launcher reaps what is left. Over it the runner reports where it is; one packet is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

VARIABLE = "ZCELL_LEASE_FD"
_MAX_PACKET = 8 * 1024
_MAX_TEXT = 2000


class Phase(StrEnum):
    """Where a runner is, in the order it goes through them."""

    STARTING = "starting"
    DOWNLOAD = "download"
    COMMAND = "command"
    UPLOAD = "upload"
    ENDED = "ended"


@dataclass(frozen=True)
class Report:
    """What a runner says of itself. Repeated in the upload phase as a sign of life."""

    phase: str = Phase.STARTING
    exit_code: int | None = None
    """The command's, once it has ended."""
    failure: str = ""
    """``link``, ``transfer`` or ``verification`` when files could not travel."""
    error: str = ""
    files: dict[str, Any] | None = None
    """What travelled, the fields of `zcell.workspace.receive.Received`: to the job in phase command, back in phase ended."""

    def encode(self) -> bytes:
        content = asdict(self) | {"error": self.error[:_MAX_TEXT]}
        return json.dumps(content).encode()

    @classmethod
    def decode(cls, packet: bytes) -> Report:
        """Raises `ValueError` for anything but what `encode` makes."""
        content = json.loads(packet)
        if not isinstance(content, dict) or content.keys() - {f.name for f in fields(cls)}:
            raise ValueError("not a report")
        report = cls(**content)
        texts = (report.phase, report.failure, report.error)
        right = isinstance(report.exit_code, int | None) and isinstance(report.files, dict | None)
        if not right or not all(isinstance(t, str) for t in texts):
            raise ValueError("a report's fields have the wrong types")
        return report


@dataclass(frozen=True)
class StopOrder:
    """What a launcher tells its runner: end the command with SIGTERM, and with SIGKILL after `grace` seconds."""

    grace: float

    def encode(self) -> bytes:
        return json.dumps({"grace": self.grace}).encode()

    @classmethod
    def decode(cls, packet: bytes) -> StopOrder:
        """Raises `ValueError` for anything but what `encode` makes."""
        content = json.loads(packet)
        if not isinstance(content, dict) or not isinstance(content.get("grace"), int | float):
            raise ValueError("not a stop order")
        return cls(float(content["grace"]))


class Lease:
    """One end. Not blocking: `receive` returns what is there, and a report that finds no room is dropped."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._socket.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Lease, socket.socket]:
        """The launcher's end, and the socket that its child inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def from_env(cls) -> Lease | None:
        """The runner's end, None when nobody handed one over. The variable goes, and no child inherits the socket."""
        text = os.environ.pop(VARIABLE, "")
        if not text:
            return None
        end = socket.socket(fileno=int(text))
        end.set_inheritable(False)
        return cls(end)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Report | StopOrder) -> None:
        with contextlib.suppress(OSError):  # the other end is gone, which `receive` reports, or reads nothing for now
            self._socket.send(message.encode())

    def receive(self) -> bytes | None:
        """One packet, ``b""`` when the other end is gone, None when there is nothing now."""
        try:
            return self._socket.recv(_MAX_PACKET)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def close(self) -> None:
        self._socket.close()
