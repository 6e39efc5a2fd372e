"""Containers that nobody looks after any more. Invariant: one that was started is removed, if not now then by the next launch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from zcell.launch.owner import Owner
from zcell.launch.remote import EngineError

log = logging.getLogger("zcell.launch.docker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


def orphans(labelled: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Id and job of the containers whose starter is dead, out of (id, owner's mark, job) triples."""
    found = []
    for container, mark, job in labelled:
        try:
            dead = Owner.parse(mark).is_dead()
        except ValueError:  # another version's
            continue
        if dead:
            found.append((container, job))
    return found


class Janitor:
    """Removes containers that could not be removed at once. Its thread lives while there are any."""

    def __init__(self, remove: Callable[[str], None]) -> None:
        self._remove = remove
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._closing = False
        self._thread: threading.Thread | None = None

    def take(self, container: str) -> None:
        """Remove it as soon as the engine does."""
        with self._changed:
            self._waiting.append(container)
            self._closing = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zcell-docker-janitor", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def has(self, container: str) -> bool:
        """Whether it is still to be removed."""
        with self._changed:
            return container in self._waiting

    def close(self) -> None:
        """Try what waits once more and stop; the next launch finds what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                last = self._closing
                waiting = list(self._waiting)
            done = [container for container in waiting if self._try(container)]
            with self._changed:
                self._waiting = [container for container in self._waiting if container not in done]
                if not self._waiting or last:
                    for container in self._waiting:
                        log.warning("container %s could not be removed; the next launch does it", container[:12])
                    self._waiting.clear()
                    self._thread = None
                    return
                if not self._closing:
                    self._changed.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _try(self, container: str) -> bool:
        try:
            self._remove(container)
        except EngineError as error:
            log.debug("container %s: %s", container[:12], error)
            return False
        return True
