"""Cleaning up when the main thread ends. Invariant owned here: it never changes the exit code and keeps no object alive."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable

_log = logging.getLogger("zcell.agent")


def call_when_main_thread_ends(method: Callable[[], None]) -> None:
    """Call the bound `method` then, unless its object is gone; what it raises is logged."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is None:
            return
        try:
            found()
        except Exception:  # noqa: BLE001  at this point an exception could only hide the job's own outcome
            _log.exception("cleaning up at exit failed")

    # threading's hook runs as soon as the main thread ends; atexit only once every other thread has ended as well, which
    # a thread that waits for a task never does
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(call)
    except RuntimeError:  # the interpreter is on its way out already
        atexit.register(call)
