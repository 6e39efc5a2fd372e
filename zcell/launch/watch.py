"""The runner's ear: signals and the launcher's death. Invariant: once a stop was asked for, the command ends within its grace.

A signal only writes a byte, from C: a handler in Python may have to wait until the main thread's system call is over, which is the
command's end. Everything else happens on this thread.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from zcell.abort import Abort
from zcell.launch.command import Command
from zcell.launch.lease import Lease, Phase, Report, StopOrder

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ORPHAN_GRACE = 5.0
"""Most seconds of grace for a command whose parent is gone."""
SIGN_OF_LIFE = 2.0
"""Seconds between reports while results are uploaded."""


class Watch:
    """Start it on the main thread; it hears until `stop`."""

    def __init__(self, command: Command, lease: Lease | None, grace: float) -> None:
        self._command = command
        self._lease = lease
        self._grace = grace
        self._report = Report()
        self._kill_at: float | None = None
        self._previous_fd = -1
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self.stopping = Abort()
        """Triggered by the first order to stop, or by the launcher's death."""
        self.forsaken = Abort()
        """Triggered by the launcher's death: nobody is left who would take the results."""
        self._ear, self._mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="zcell-job-watch", daemon=True)

    @property
    def is_heard(self) -> bool:
        """Whether there is a launcher that `say` tells."""
        return self._lease is not None

    def start(self) -> None:
        self._previous_fd = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)  # a full pipe of signals says the same
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, _heard)
        self._thread.start()

    def stop(self) -> None:
        """Hear no more. Idempotent; signals do again what they did before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(self._previous_fd)
        self._previous.clear()
        if self._thread.is_alive():
            os.write(self._mouth, b"q")
            self._thread.join()
            os.close(self._ear)
            os.close(self._mouth)

    def say(self, report: Report) -> None:
        """Tell the launcher where the job is."""
        self._report = report
        if self._lease is not None:
            self._lease.send(report)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            if self._lease is not None:
                selector.register(self._lease, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(self._timeout())}
                if self._lease is not None and self._lease.fileno() in ready and not self._hear_launcher():
                    selector.unregister(self._lease)
                if self._ear in ready:
                    heard = os.read(self._ear, 4096)
                    if b"q" in heard:
                        return
                    for number in heard:
                        if number in STOP_SIGNALS:  # a second one ends the grace
                            self._stop(0.0 if self.stopping.triggered else self._grace)
                self._keep_time()

    def _timeout(self) -> float | None:
        waits = [SIGN_OF_LIFE] if self._report.phase == Phase.UPLOAD else []
        if self._kill_at is not None:
            waits.append(max(0.0, self._kill_at - time.monotonic()))
        return min(waits, default=None)

    def _hear_launcher(self) -> bool:
        """Read what the launcher says; False once it is gone."""
        assert self._lease is not None
        while (packet := self._lease.receive()) is not None:
            if not packet:
                self.forsaken.trigger("the job's parent is gone")
                self._stop(min(self._grace, ORPHAN_GRACE))
                return False
            try:
                self._stop(StopOrder.decode(packet).grace)
            except ValueError:
                continue
        return True

    def _stop(self, grace: float) -> None:
        until = time.monotonic() + grace
        self._kill_at = until if self._kill_at is None else min(self._kill_at, until)
        if not self.stopping.triggered:
            self.stopping.trigger("the job is stopped")
            self._command.signal(signal.SIGTERM)

    def _keep_time(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._command.kill_all()
        if self._report.phase == Phase.UPLOAD and self._lease is not None:
            self._lease.send(self._report)


def _heard(number: int, frame: FrameType | None) -> None:
    """What counts is the byte that the interpreter has written by now."""
