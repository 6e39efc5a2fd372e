"""Producers and consumers: objects that are not bytes, moved step by step. Invariant: a producer is never asked for state it
did not return, and a consumer sees every step once, in order."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from zcell.download.outcome import ProduceRC

State = dict[Any, Any]


@runtime_checkable
class Producer(Protocol):
    """Turns an object into steps. Several receivers may be served at once, from several threads.

    All that a producer must remember between two steps is in `state`, so it serves any number of receivers and a repeated step
    gives the same data. One with an attribute ``random_access = True`` takes several steps at once: its state is always
    ``{"step": n}``, n counting from 0, and the state it returns is ignored.
    """

    def produce(self, ref_id: str, obj: Any, state: State | None, requester: str) -> tuple[ProduceRC, Any, State | None]:
        """One step: (rc, data, new state). `state` is None at first. Data is any payload of the codec, at most a message."""
        ...


@runtime_checkable
class Consumer(Protocol):
    """Puts the steps together again. Called on the handler pool, one call at a time."""

    def consume(self, ref_id: str, state: State, data: Any) -> State:
        """Take one step and return the new state, a dict; `state` is ``{}`` at first. Anything else fails the download."""
        ...

    def download_completed(self, ref_id: str) -> None:
        """All steps were consumed. What it raises fails the download as sink_failed."""
        ...

    def download_failed(self, ref_id: str, reason: str) -> None:
        """The download failed: `reason` is that of the `DownloadError`."""
        ...
