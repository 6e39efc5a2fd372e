"""What a receiver wants done. Invariant: actions are carried out in the order given, each once.

The driver answers those that name an answer by calling the receiver's method of that name, at once or later.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcell.protocol.transfer.messages import Description, Message


@dataclass(frozen=True, slots=True)
class Post:
    """Send an event to the owner. It may be lost: the receiver copes."""

    message: Message


@dataclass(frozen=True, slots=True)
class RequestOpen:
    """Ask the owner for a description: `described`, `refused` or `unreachable`."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the sink ready and find out what it already holds: `sink_ready`, or `fail`."""

    description: Description


@dataclass(frozen=True, slots=True)
class CompareRoot:
    """Compute the root over the digests held and compare it: `root_compared`."""

    root: bytes


@dataclass(frozen=True, slots=True)
class RequestDigests:
    """Ask the owner for chunk digests: `digests`, or `unreachable`."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Journal that these chunks are no longer verified, before anything overwrites them."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """The object is whole: give it its final name: `published`, or `fail`."""

    size: int
    root: bytes | None


@dataclass(frozen=True, slots=True)
class RequestConfirm:
    """Tell the owner that the object is stored: `confirmed`, or `unreachable`."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The download succeeded. `confirmed`: the owner knows. Always the last action."""

    confirmed: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """The download failed with a `DownloadError` reason. Always the last action."""

    reason: str
    text: str


Action = Post | RequestOpen | Prepare | CompareRoot | RequestDigests | Drop | Publish | RequestConfirm | Complete | Fail
