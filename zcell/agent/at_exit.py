"""Cleaning up when the process ends. Invariant owned here: it never changes the exit code and keeps no object alive."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable

from zcell.pipe.process import OwnProcess

_log = logging.getLogger("zcell.agent")


def call_when_main_thread_ends(method: Callable[[], None]) -> None:
    """Call the bound `method` then, unless its object is gone; what it raises is logged. A forked child does not call it."""
    # threading's hook runs as soon as the main thread ends; atexit only once every other thread has ended as well, which
    # a thread that waits for a task never does
    register = getattr(threading, "_register_atexit", atexit.register)
    call = _call_of(method)
    try:
        register(call)
    except RuntimeError:  # the interpreter is on its way out already
        atexit.register(call)


def call_when_all_threads_have_ended(method: Callable[[], None]) -> None:
    """The same, but later: the threads that the main thread left behind end first, unless they are daemons."""
    atexit.register(_call_of(method))


def _call_of(method: Callable[[], None]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)
    process = OwnProcess()

    def call() -> None:
        found = None if process.is_elsewhere else reference()
        if found is None:
            return
        try:
            found()
        except Exception:  # noqa: BLE001  at this point an exception could only hide the outcome of the process itself
            _log.exception("cleaning up at exit failed")

    return call
