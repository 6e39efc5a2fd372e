"""Several downloads as one. Invariant: the whole is done when the last part is, and its outcome names the first failure."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from zcell.errors import DownloadError

Gathered = dict[str, Path | bytes]


def gather(parts: dict[str, Future[Any]]) -> Future[Gathered]:
    """One future for all parts: their results, or the first failure in their order. Cancelling it cancels them."""
    whole: Future[Gathered] = Future()
    left = [len(parts)]
    lock = threading.Lock()

    def one_done(_: Future[Any]) -> None:
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if last:
            _finish(whole, parts)

    def cancel_parts(future: Future[Gathered]) -> None:
        if future.cancelled():
            for part in parts.values():
                part.cancel()

    whole.add_done_callback(cancel_parts)
    for part in parts.values():
        part.add_done_callback(one_done)
    if not parts:
        _finish(whole, parts)
    return whole


def _finish(whole: Future[Gathered], parts: dict[str, Future[Any]]) -> None:
    if not whole.set_running_or_notify_cancel():
        return
    failed = next((part for part in parts.values() if part.cancelled() or part.exception() is not None), None)
    if failed is None:
        whole.set_result({ref_id: part.result() for ref_id, part in parts.items()})
    else:
        error = None if failed.cancelled() else failed.exception()
        whole.set_exception(error or DownloadError("aborted", "one of the downloads was cancelled"))
