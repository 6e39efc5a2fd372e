"""The states of both ends of a transfer, as tables. Invariant: a state changes only along an edge written here.

The tables do not know what the states are for; `receiver.py` and `sender.py` do. `diagram` draws them for the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class LocalProtocolError(RuntimeError):
    """This side's own code used a machine in a way its state does not allow: a defect here, never the other side's doing."""


class ReceiverState(StrEnum):
    """Where a receiver is."""

    OPENING = "opening"
    PREPARING = "preparing"
    RECEIVING = "receiving"
    COMPARING = "comparing"
    REPAIRING = "repairing"
    PUBLISHING = "publishing"
    CONFIRMING = "confirming"
    COMPLETED = "completed"
    FAILED = "failed"


class ReceiverEvent(StrEnum):
    """What moves a receiver on."""

    DESCRIBED = "described"
    SINK_READY = "sink ready"
    ALL_STORED = "all stored"
    ROOT_MATCHES = "root matches"
    ROOT_DIFFERS = "root differs"
    CHUNKS_DROPPED = "chunks dropped"
    PUBLISHED = "published"
    CONFIRMED = "confirmed"
    FAIL = "fail"


class SenderState(StrEnum):
    """Where a sender is."""

    SERVING = "serving"
    CLOSED = "closed"
    FAILED = "failed"


class SenderEvent(StrEnum):
    """What moves a sender on."""

    CLOSE = "close"
    FAIL = "fail"


_R, _E = ReceiverState, ReceiverEvent

RECEIVER: Mapping[tuple[ReceiverState, ReceiverEvent], ReceiverState] = {
    (_R.OPENING, _E.DESCRIBED): _R.PREPARING,
    (_R.PREPARING, _E.SINK_READY): _R.RECEIVING,
    (_R.RECEIVING, _E.ALL_STORED): _R.COMPARING,
    (_R.COMPARING, _E.ROOT_MATCHES): _R.PUBLISHING,
    (_R.COMPARING, _E.ROOT_DIFFERS): _R.REPAIRING,
    (_R.REPAIRING, _E.CHUNKS_DROPPED): _R.RECEIVING,
    (_R.PUBLISHING, _E.PUBLISHED): _R.CONFIRMING,
    (_R.CONFIRMING, _E.CONFIRMED): _R.COMPLETED,
    (_R.OPENING, _E.FAIL): _R.FAILED,
    (_R.PREPARING, _E.FAIL): _R.FAILED,
    (_R.RECEIVING, _E.FAIL): _R.FAILED,
    (_R.COMPARING, _E.FAIL): _R.FAILED,
    (_R.REPAIRING, _E.FAIL): _R.FAILED,
    (_R.PUBLISHING, _E.FAIL): _R.FAILED,
}
"""From PUBLISHED on the object has its final name and is verified: it can no longer fail, only be confirmed or not."""

SENDER: Mapping[tuple[SenderState, SenderEvent], SenderState] = {
    (SenderState.SERVING, SenderEvent.CLOSE): SenderState.CLOSED,
    (SenderState.SERVING, SenderEvent.FAIL): SenderState.FAILED,
}


def next_receiver_state(state: ReceiverState, event: ReceiverEvent) -> ReceiverState:
    """The state after `event`, or `LocalProtocolError`."""
    try:
        return RECEIVER[state, event]
    except KeyError:
        raise LocalProtocolError(f"a receiver that is {state.value} cannot take the event {event.value!r}") from None


def next_sender_state(state: SenderState, event: SenderEvent) -> SenderState:
    """The state after `event`, or `LocalProtocolError`."""
    try:
        return SENDER[state, event]
    except KeyError:
        raise LocalProtocolError(f"a sender that is {state.value} cannot take the event {event.value!r}") from None


def diagram(table: Mapping[tuple[S, E], S]) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table))[0].value}"]
    lines += [f"    {state.value} --> {after.value}: {event.value}" for (state, event), after in table.items()]
    ends = set(table.values()) - {state for state, _ in table}
    lines += [f"    {state.value} --> [*]" for state in sorted(ends)]
    return "\n".join(lines) + "\n"
