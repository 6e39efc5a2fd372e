"""The runner's ear: signals and the launcher's death. Invariant: once a stop was asked for, the command ends within its grace.

Signals come through a pipe; everything happens on this thread.
"""

from __future__ import annotations

import selectors
import signal
import threading
import time

from zcell.abort import Abort
from zcell.launch.command import Command
from zcell.launch.lease import Lease, Phase, Report, StopOrder
from zcell.launch.signals import SignalPipe

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
        self.stopping = Abort()
        """Triggered by the first order to stop, or by the launcher's death."""
        self.forsaken = Abort()
        """Triggered by the launcher's death: nobody is left who would take the results."""
        self._signals = SignalPipe()
        self._thread = threading.Thread(target=self._run, name="zcell-job-watch", daemon=True)

    @property
    def is_heard(self) -> bool:
        """Whether there is a launcher that `say` tells."""
        return self._lease is not None

    def start(self) -> None:
        self._signals.hear()
        self._thread.start()

    def stop(self) -> None:
        """Hear no more. Idempotent; signals do again what they did before."""
        self._signals.unhear()
        if self._thread.is_alive():
            self._signals.say_the_end()
            self._thread.join()
            self._signals.close()

    def say(self, report: Report) -> None:
        """Tell the launcher where the job is."""
        self._report = report
        if self._lease is not None:
            self._lease.send(report)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            if self._lease is not None:
                selector.register(self._lease, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(self._timeout())}
                if self._lease is not None and self._lease.fileno() in ready and not self._hear_launcher():
                    selector.unregister(self._lease)
                if self._signals.fileno() in ready:
                    for number in self._signals.read():
                        if number is None:
                            return
                        self._stop(0.0 if self.stopping.triggered else self._grace)  # a second signal ends the grace
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
