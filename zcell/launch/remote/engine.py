"""What a launcher needs of an engine. Invariant: an engine that cannot be asked raises; it never answers with a guess."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zcell.errors import EngineUnreachableError, LaunchError
from zcell.launch.remote.course import EngineView

if TYPE_CHECKING:
    from zcell.launch.remote.handle import RemoteHandle


class EngineError(Exception):
    """The engine could not be asked, or refused; the text says which, with the engine's own words."""

    unreachable = False
    """Whether it could not be asked at all."""

    def for_the_user(self, text: str) -> LaunchError:
        """The same as whoever launches a job is told it; `text` comes first."""
        kind = EngineUnreachableError if self.unreachable else LaunchError
        return kind(f"{text}: {self}")


class Engine(ABC):
    """One engine. Its methods are called one after the other by its watcher, and may take a few seconds, no more.

    Only `survey` may take longer; others may be called before it has come back then.
    """

    fastest: float = 0.3
    """Seconds between two questions while something is expected."""
    slowest: float = 5.0
    """Seconds between two questions while nothing is."""

    @abstractmethod
    def survey(self, handles: Sequence[RemoteHandle]) -> Mapping[RemoteHandle, EngineView]:
        """How the jobs are; one that is missing from the answer is not listed. Raises `EngineError`."""

    def deliver(self, handle: RemoteHandle) -> bool:
        """Bring the credentials to the node of a running job. False: not yet, try again. Raises `EngineError`.

        Nothing to do where they came with the job.
        """
        return True

    @abstractmethod
    def cancel(self, handle: RemoteHandle) -> None:
        """End the job with the engine's own means, SIGTERM first. Raises `EngineError`."""

    @abstractmethod
    def kill(self, handle: RemoteHandle) -> None:
        """End the job at once. Raises `EngineError`."""

    def last_output(self, handle: RemoteHandle) -> bytes:
        """What the engine kept of the node's own output: asked when the node never spoke."""
        return b""

    def keep(self, handle: RemoteHandle, path: str) -> str:
        """Called before `release` when results could not be brought back and are in `path` on the job's node.

        How to get at them, in words; empty when they end with the job. Raises `EngineError`.
        """
        return ""

    def release(self, handle: RemoteHandle) -> None:  # noqa: B027  most engines keep nothing of a job that has ended
        """The job has ended: remove what the engine keeps of it. Raises `EngineError`."""
