"""A node at work. Invariant: everything the job wrote is with the parent before its end is, while the parent can be reached."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.errors import LaunchError
from zcell.fqcn import FQCN
from zcell.launch.credentials import Credentials
from zcell.launch.launcher import HandOver, LifecycleHook
from zcell.launch.lease import Phase
from zcell.launch.process import ProcessLauncher
from zcell.launch.process_handle import ProcessHandle
from zcell.launch.remote.course import Outcome
from zcell.launch.remote.messages import (
    CHANNEL,
    ENDED,
    MAX_LINES,
    OUTPUT,
    RENEW,
    STOP,
    LastWords,
    OutputBatch,
    Work,
    stop_order,
)
from zcell.launch.remote.spool import OutputSpool
from zcell.launch.spec import JobReturnCode, JobSpec
from zcell.limits import KIB
from zcell.message import Reply, Request, ReturnCode, make_reply

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.launch.remote.node import Signals

log = logging.getLogger("zcell.node")

ORPHAN_GRACE = 5.0
"""Most seconds of grace for a job whose parent is gone."""
BATCH_BYTES = 512 * KIB
_ANSWER = 5.0
_RETRY = 0.2
_UNREACHED = (ReturnCode.TIMEOUT, ReturnCode.COMM_ERROR, ReturnCode.TARGET_UNREACHABLE)


class NodeLauncher(ProcessLauncher):
    """The process launcher with a hand-over that came from elsewhere."""

    def __init__(self, hand_over: HandOver, settings: Mapping[str, Any], hooks: Iterable[LifecycleHook] = ()) -> None:
        super().__init__(settings, hooks=hooks)
        self._given = hand_over

    def _hand_over(self, *_: object) -> HandOver:
        return self._given

    def _take_back(self, *_: object) -> None:
        """Nothing was prepared here."""


class Stint:
    """One job on this node."""

    def __init__(
        self, cell: Cell, work: Work, credentials: Credentials, signals: Signals, *, directory: Path | None, echo: bool
    ) -> None:
        self._cell = cell
        self._owner = FQCN.parent(cell.fqcn)
        self._work = work
        self._signals = signals
        self._spool = OutputSpool(directory)
        self._echo = echo
        self._launcher = NodeLauncher(
            HandOver(work.hand_over, credentials), {"scratch": directory} if directory is not None else {}
        )
        self._launcher.directory = Path(work.directory) if work.directory else None
        self._heard = time.monotonic()
        self._forsaken = threading.Event()
        self._grace: float | None = None
        self._signalled = False

    def run(self) -> int:
        """The exit code of the job."""
        sender = threading.Thread(target=self._send_output, name="zcell-node-output", daemon=True)
        try:
            words = self._run(sender)
            self._spool.end()
            if sender.is_alive():
                self._patiently(sender)
            self._say_last(words)
        finally:
            self._spool.end()
            self._launcher.close()
            if not sender.is_alive():
                self._spool.close()
        code = words.outcome.exit_code
        return int(words.outcome.code) if code is None else code

    def _run(self, sender: threading.Thread) -> LastWords:
        self._cell.register(CHANNEL, STOP, self._hear_stop)
        try:
            handle = self._launch()
        except (LaunchError, ValueError) as error:
            return LastWords(self._cell.instance, Outcome(JobReturnCode.EXECUTION_ERROR, str(error)), {})
        sender.start()
        handle.on_finished(lambda _: self._signals.put("ended"))
        self._look_after(handle)
        kept = str(handle.kept) if handle.kept is not None else ""
        outcome = Outcome(handle.poll(), self._reason(handle), handle.exit_code, handle.failure, kept)
        return LastWords(
            self._cell.instance, outcome, {str(phase): handle.files(phase) for phase in (Phase.COMMAND, Phase.ENDED)}
        )

    def _launch(self) -> ProcessHandle:
        work = self._work
        spec = JobSpec(
            job_id=work.job_id,
            command=() if work.module else work.command,
            module=work.module,
            arguments=work.command if work.module else (),
            env=work.env,
            grace=work.grace,
            site=work.hand_over.get("ZCELL_SITE", "local"),
        )
        handle = self._launcher.launch(spec, self._cell, on_output=self._write)
        assert isinstance(handle, ProcessHandle)
        return handle

    def _write(self, stream: str, line: bytes) -> None:
        self._spool.append(stream, line)
        if self._echo:
            own = sys.stdout if stream == "stdout" else sys.stderr
            own.buffer.write(line)
            own.buffer.flush()

    def _look_after(self, handle: ProcessHandle) -> None:
        interval = min(2.0, self._work.lease / 5)
        kill_at: float | None = None
        while handle.poll() is JobReturnCode.UNKNOWN:
            word = self._signals.get(interval)
            if word == "stop":
                self._signalled = True
                grace = handle.spec.grace if self._grace is None else self._grace
                handle.terminate(grace, wait=False)
            if word in ("", "renew"):
                self._renew(handle)
            if kill_at is None and self._parent_is_gone():
                log.warning("no link to %s for %g s: the job is ended", self._owner, self._work.lease)
                self._forsaken.set()
                handle.terminate(min(handle.spec.grace, ORPHAN_GRACE), wait=False)
                kill_at = time.monotonic() + min(handle.spec.grace, ORPHAN_GRACE) + 1.0
            if kill_at is not None and time.monotonic() >= kill_at:
                handle.kill(wait=False)

    def _reason(self, handle: ProcessHandle) -> str:
        if self._forsaken.is_set():
            return "its node lost the link to its parent"
        if self._signalled and self._grace is None and handle.poll() is JobReturnCode.ABORTED:
            return (
                "its node was told to end by somebody else than its parent: a container that is stopped, a node that goes down"
            )
        return handle.reason

    # words to and from the parent

    def _renew(self, handle: ProcessHandle) -> None:
        payload = {"instance": self._cell.instance, "phase": str(handle.phase)}
        reply = self._ask(RENEW, payload)
        if reply.ok:
            try:
                self._order(stop_order(reply.payload))
            except ValueError:
                log.warning("the parent answered with something that is no order")

    def _hear_stop(self, request: Request) -> Reply | None:
        if request.origin != self._owner:
            return make_reply(ReturnCode.UNAUTHENTICATED, error="only the job's parent can end it")
        try:
            self._order(stop_order(request.payload))
        except ValueError as error:
            return make_reply(ReturnCode.INVALID_REQUEST, error=str(error))
        return None

    def _order(self, grace: float | None) -> None:
        if grace is not None and (self._grace is None or grace < self._grace):
            self._grace = grace
            self._signals.put("stop")

    def _ask(self, topic: str, payload: Any) -> Reply:
        """Ask the parent once; its answer renews the lease, and one that it does not know this job ends it."""
        asked = time.monotonic()
        reply = self._cell.request(self._owner, CHANNEL, topic, payload, timeout=_ANSWER, optional=True)
        if reply.ok:
            self._heard = max(self._heard, asked)
        elif reply.rc not in _UNREACHED:
            self._forsaken.set()
        return reply

    def _parent_is_gone(self) -> bool:
        return self._forsaken.is_set() or time.monotonic() - self._heard > self._work.lease

    def _send_output(self) -> None:
        number = 0
        pause = threading.Event()
        while not self._parent_is_gone() and (lines := self._spool.next_batch(BATCH_BYTES, MAX_LINES)):
            payload = OutputBatch(self._cell.instance, number, lines).encode()
            while not self._parent_is_gone():
                if self._ask(OUTPUT, payload).ok:
                    self._spool.confirm()
                    number += 1
                    break
                pause.wait(_RETRY)

    def _patiently(self, sender: threading.Thread) -> None:
        """Wait for the rest of the output while it makes progress; a parent that is gone ends the wait by its lease."""
        while sender.is_alive():
            sender.join(1.0)
            if self._cell.is_ready:
                self._ask(RENEW, {"instance": self._cell.instance, "phase": Phase.UPLOAD.value})

    def _say_last(self, words: LastWords) -> None:
        pause = threading.Event()
        while not self._parent_is_gone():
            if self._ask(ENDED, words.encode()).ok:
                return
            pause.wait(_RETRY)
        print(f"zcell node: nobody to tell how the job ended: {words.outcome.reason}", file=sys.stderr)  # noqa: T201
