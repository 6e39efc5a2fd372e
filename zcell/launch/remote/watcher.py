"""The one thread that looks after all jobs of a launcher. Invariant: it lives exactly while there are any."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping

from zcell.launch.remote.course import Action, EngineState, EngineView
from zcell.launch.remote.engine import Engine, EngineError
from zcell.launch.remote.handle import RemoteHandle

log = logging.getLogger("zcell.launch")

_BEAT = 1.0
"""Seconds between two looks at the clock of every job."""
_PATIENCE = 1.0
"""Seconds that an engine gets to answer before the jobs are looked after without its answer."""


class Question:
    """One survey on a thread of its own, so that an engine that hangs keeps no job from the end that its node has told."""

    def __init__(self, engine: Engine, handles: list[RemoteHandle], answered: Callable[[], None]) -> None:
        self.handles = handles
        self.asked = time.monotonic()
        self.views: Mapping[RemoteHandle, EngineView] = {}
        self.error: Exception | None = None
        self.done = threading.Event()
        self._engine = engine
        self._answered = answered
        threading.Thread(target=self._run, name="zcell-launch-survey", daemon=True).start()

    def _run(self) -> None:
        try:
            self.views = self._engine.survey(self.handles)
        except Exception as error:  # noqa: BLE001  whoever asked says what it was
            self.error = error
        self.done.set()
        self._answered()


class Watcher:
    """Asks the engine about all jobs at once, seldom when nothing is expected, and does what their courses want done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._handles: list[RemoteHandle] = []
        self._woken = False
        self._thread: threading.Thread | None = None
        self._asked = -math.inf
        self._question: Question | None = None
        self.trouble = ""
        """Why the engine could not be asked the last time; empty when it could."""

    def handles(self) -> list[RemoteHandle]:
        """The jobs that have not ended yet."""
        with self._changed:
            return list(self._handles)

    def add(self, handle: RemoteHandle) -> None:
        """Look after `handle` until its job has ended."""
        with self._changed:
            self._handles.append(handle)
            self._woken = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zcell-launch-watcher", daemon=True)
                self._thread.start()
            else:
                self._changed.notify_all()

    def wake(self) -> None:
        """Something has changed; do not wait for the next beat."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def look_now(self) -> None:
        """Ask the engine at once, whenever it was asked last."""
        self._asked = -math.inf
        self.wake()

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        while True:
            handles = self.handles()
            if self._question is None and time.monotonic() >= self._next_question(handles):
                self._ask(handles)
            self._hear()
            for handle in handles:
                self._look_after(handle)
            with self._changed:
                if not self._handles:
                    self._thread = None
                    return
                if not self._woken:
                    asking = self._question is not None
                    left = _BEAT if asking else self._next_question(self._handles) - time.monotonic()
                    self._changed.wait(max(0.01, min(_BEAT, left)))
                self._woken = False

    def _next_question(self, handles: list[RemoteHandle]) -> float:
        fastest, slowest = self._engine.fastest, self._engine.slowest
        return self._asked + min((handle.survey_interval(fastest, slowest) for handle in handles), default=slowest)

    def _ask(self, handles: list[RemoteHandle]) -> None:
        self._question = Question(self._engine, handles, self.wake)
        self._asked = self._question.asked
        self._question.done.wait(_PATIENCE)

    def _hear(self) -> None:
        """Take the engine's answer, if there is one."""
        question = self._question
        if question is None or not question.done.is_set():
            return
        self._question = None
        if question.error is not None:
            self._tell_trouble(question.error)
            return
        self.trouble = ""
        for handle in question.handles:
            handle.engine_says(question.views.get(handle, EngineView(EngineState.ABSENT)), question.asked)

    def _tell_trouble(self, error: Exception) -> None:
        if str(error) != self.trouble:  # once, not at every question
            self.trouble = str(error)
            known = isinstance(error, EngineError)
            log.warning("the engine cannot be asked: %s", error, exc_info=None if known else error)

    def _look_after(self, handle: RemoteHandle) -> None:
        actions: list[Action] = []
        self._try(handle, "look after", lambda: actions.extend(handle.decide()))  # one job's trouble is not that of the others
        for action in actions:
            self._try(handle, action.value, lambda action=action: self._act(handle, action))  # type: ignore[misc]
        if handle.has_ended:
            self._end(handle)

    def _act(self, handle: RemoteHandle, action: Action) -> None:
        match action:
            case Action.DELIVER:
                if self._engine.deliver(handle):
                    handle.delivered()
            case Action.STOP:
                handle.tell_node_to_stop()
            case Action.CANCEL:
                self._engine.cancel(handle)
            case Action.KILL:
                self._engine.kill(handle)

    def _end(self, handle: RemoteHandle) -> None:
        kept: list[bytes] = []
        self._try(handle, "read the log of", lambda: kept.append(self._engine.last_output(handle)))
        if path := handle.kept_path:
            self._try(handle, "keep the results of", lambda: handle.keeps(self._engine.keep(handle, path)))
        self._try(handle, "release", lambda: self._engine.release(handle))
        with self._changed:
            self._handles.remove(handle)
        try:
            handle.conclude(b"".join(kept))
        except Exception:
            log.exception("job %s: its end could not be handled", handle.job_id)
            handle.give_up()

    def _try(self, handle: RemoteHandle, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except EngineError as error:
            log.info("job %s: could not %s it yet: %s", handle.job_id, what, error)
        except Exception:
            log.exception("job %s: could not %s it", handle.job_id, what)
