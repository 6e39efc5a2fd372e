"""What travels through a pipe. Invariant: a message keeps its id however often it is sent, so it can be delivered once."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

_random = random.Random()  # noqa: S311  ids are names, not secrets
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A new id for a message or a task: 128 random bits, made without a system call."""
    return f"{_random.getrandbits(128):032x}"


TTL = "ttl"
UNLIMITED = 1e9


class MsgType(StrEnum):
    """Whether a message asks or answers."""

    REQUEST = "REQUEST"
    REPLY = "REPLY"


class Topic:
    """Reserved topics: they steer the pipe and never reach the user as ordinary messages."""

    HEARTBEAT = "_HEARTBEAT_"
    ABORT = "_ABORT_"
    END = "_END_"
    PEER_GONE = "_PEER_GONE_"

    RESERVED = frozenset({HEARTBEAT, ABORT, END, PEER_GONE})
    STATUS = frozenset({ABORT, END, PEER_GONE})


class OfferWatch(Protocol):
    """Told about the objects that a message sends by reference, from the moment they are offered. Methods must not block."""

    def offered(self, tx_id: str, ref_ids: list[str], receivers: list[str] | int, withdraw: Callable[[], None]) -> None:
        """`receivers` (names, or how many) are to fetch all `ref_ids` of transaction `tx_id`; `withdraw()` ends it early."""

    def progress(self, tx_id: str | None, ref_id: str, receiver: str, bytes_done: int, state: str) -> None:
        """One receiver's counters of one ref; `state` is ACTIVE, COMPLETED, FAILED or ABORTED."""

    def done(self, tx_id: str, status: str) -> None:
        """The transaction ended; `status` is FINISHED, TIMEOUT, DELETED or ABORTED."""


@dataclass(slots=True, eq=False)
class Message:
    """One message. `data` is any payload the codec takes; `req_id` is the id of the request that a reply answers.

    `error` is set instead of `data` when a message arrived whose data could not be had (its text says why).
    """

    msg_type: MsgType
    topic: str
    data: Any = None
    msg_id: str = field(default_factory=new_id)
    req_id: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    """Options of this one message: `pass_through`, `receivers`, `ttl` (seconds without activity that end what it offers, and
    its fetching; with `UNLIMITED` only the watch ends the offer, and the fetching has its usual patience)."""
    error: str = ""
    offer_watch: OfferWatch | None = field(default=None, repr=False)
    """Who watches the objects that this message sends by reference; stays on this side."""
    encoded: Any = field(default=None, repr=False)
    """The pipe's encoded form, kept between resends; freed by `Pipe.release_send_cache`."""

    def __post_init__(self) -> None:
        self.msg_type = MsgType(self.msg_type)
        if not isinstance(self.topic, str) or not self.topic:
            raise ValueError(f"Message.topic must be a non-empty str, got {self.topic!r}")
        if not isinstance(self.msg_id, str) or not self.msg_id:
            raise ValueError(f"Message.msg_id must be a non-empty str, got {self.msg_id!r}")
        if self.msg_type is MsgType.REPLY and not self.req_id:
            raise ValueError(f"Message.req_id: a reply names the request it answers, got {self.req_id!r}")

    @classmethod
    def new_request(cls, topic: str, data: Any = None, *, msg_id: str | None = None) -> Message:
        """A request; the id is made here unless given."""
        return cls(MsgType.REQUEST, topic, data, msg_id or new_id())

    @classmethod
    def new_reply(cls, topic: str, data: Any = None, *, req_msg_id: str, msg_id: str | None = None) -> Message:
        """The answer to the request whose id is `req_msg_id`."""
        return cls(MsgType.REPLY, topic, data, msg_id or new_id(), req_msg_id)

    @property
    def is_status(self) -> bool:
        """Whether this message ends the conversation: END, ABORT or PEER_GONE."""
        return self.topic in Topic.STATUS
