"""The contract of a pipe. Invariant owned here: a message taken by the peer's end is True at the sender and delivered once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from zcell import codec
from zcell.abort import Abort
from zcell.pipe.message import Message


class Mode(StrEnum):
    """Which end this is: ACTIVE in the job, PASSIVE in its parent."""

    ACTIVE = "ACTIVE"
    PASSIVE = "PASSIVE"

    @property
    def other(self) -> Mode:
        return Mode.PASSIVE if self is Mode.ACTIVE else Mode.ACTIVE


class Pipe(ABC):
    """Two-ended, message-preserving and ordered. Every method is thread-safe. On a closed pipe `open`, `send`, `receive` and
    `clear` raise `BrokenPipeError`.

    One end talks to one incarnation of its peer: when another one shows up, a PEER_GONE message is received, and the new
    one is listened to only after `clear()`.
    """

    def __init__(self, mode: Mode | str) -> None:
        self.mode = Mode(mode.upper() if isinstance(mode, str) else mode)
        self.last_error = ""

    last_error: str
    """Why the last `send` returned False, "" when it returned True; for people. Heartbeats do not change it."""

    @abstractmethod
    def open(self, name: str) -> None:
        """Connect this end under the channel `name` (letters, digits, `_`, `-`); both ends use the same one."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect and leave nothing behind. Idempotent; ends every wait in this pipe with `BrokenPipeError`."""

    @abstractmethod
    def send(self, msg: Message, timeout: float | None = None, abort: Abort | None = None) -> bool:
        """Send; True once the peer's end has taken it, False after `timeout` seconds (None: no limit of its own), when
        there is no way to the peer, or when `abort` was triggered: `last_error` says which, and the peer will not get it.

        A peer that can be reached and has not opened its end yet is waited for. A heartbeat does not wait: True means handed
        over for sending.
        """

    @abstractmethod
    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, as soon as there is one; None after `timeout` seconds without (None or 0: do not wait).

        A peer's signs of life come as messages with the topic HEARTBEAT, which a `PipeHandler` takes for itself: skip them.
        Decoding, and fetching what was sent by reference, happens here, in the caller's thread.
        """

    @abstractmethod
    def clear(self) -> None:
        """Drop what was received and not yet handed out, and accept whichever incarnation of the peer speaks next."""

    @property
    @abstractmethod
    def last_peer_active_time(self) -> float:
        """`time.monotonic()` of the last sign of life of the peer, 0.0 before the first."""

    def can_resend(self) -> bool:
        """Whether a message whose `send` returned False may be sent again."""
        return True

    def is_in_vain(self, msg: Message) -> bool:
        """Whether sending `msg` again cannot help: the peer would take it, and drop it as what comes too late."""
        return False

    def release_send_cache(self, msg: Message) -> None:
        """Free the encoded form of `msg`; called when it will not be sent again."""
        msg.encoded = None

    def check_data(self, data: Any, name: str = "data") -> None:
        """Raise what `send` would raise for data that cannot travel (`CodecError`), where it is called `name`."""
        codec.check(data, name)

    @abstractmethod
    def peer_is_gone(self) -> None:
        """Told by the handler that the peer is not coming back, so that `close` may clean up for both ends."""

    @abstractmethod
    def export(self, mode: Mode | str) -> tuple[str, dict[str, Any]]:
        """What builds the end `mode` elsewhere: an import path and keyword arguments for `rebuild`; never a secret."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
