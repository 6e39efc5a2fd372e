"""What callers and handlers hold: return codes, requests and replies. Invariant: a reply always carries a return code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from zcell.errors import RequestError


class ReturnCode(StrEnum):
    """The outcome carried by every reply."""

    OK = "OK"
    TIMEOUT = "TIMEOUT"
    INVALID_TARGET = "INVALID_TARGET"
    TARGET_UNREACHABLE = "TARGET_UNREACHABLE"
    COMM_ERROR = "COMM_ERROR"
    MSG_TOO_BIG = "MSG_TOO_BIG"
    FILTER_ERROR = "FILTER_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    PROCESS_EXCEPTION = "PROCESS_EXCEPTION"
    AUTHENTICATION_ERROR = "AUTHENTICATION_ERROR"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    INVALID_SESSION = "INVALID_SESSION"
    ABORTED = "ABORTED"


@dataclass(slots=True)
class Request:
    """What a handler receives. `origin` is authenticated by the link it came on; `payload` is decoded."""

    origin: str
    target: str
    channel: str
    topic: str
    payload: Any = None
    headers: dict[str, Any] = field(default_factory=dict)
    is_event: bool = False
    remaining: float | None = None
    """Seconds the caller still waits, measured here; None for events."""


@dataclass(slots=True)
class Reply:
    """The answer to a request. `origin` is the cell that answered ("" when it was made locally, as a timeout is)."""

    rc: ReturnCode = ReturnCode.OK
    payload: Any = None
    error: str = ""
    headers: dict[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def ok(self) -> bool:
        return self.rc is ReturnCode.OK

    def raise_for_rc(self) -> Reply:
        """Return self when rc is OK, else raise `RequestError` with the code, the origin and the error text."""
        if self.rc is ReturnCode.OK:
            return self
        raise RequestError(f"{self.rc.value} from {self.origin or 'this cell'}: {self.error or 'no further detail'}", self)


def make_reply(rc: ReturnCode | str, payload: Any = None, error: str = "", headers: Mapping[str, Any] | None = None) -> Reply:
    """A reply with return code `rc` (a `ReturnCode` or its name). Raises `ValueError` for an unknown code."""
    return Reply(ReturnCode(rc), payload, error, dict(headers or {}))
