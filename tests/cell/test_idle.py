"""A cell that has nothing to do costs nothing, however busy it was a moment ago."""

from __future__ import annotations

import threading
import time

from tests.trees import TreeFactory

_QUIET = 0.5
"""Seconds that are watched."""


def test_two_cells_that_fall_silent_after_a_burst_use_no_processor(tree: TreeFactory) -> None:
    cells = tree("server", "site-1")
    cells["site-1"].register("math", "double", lambda request: 2 * request.payload)
    for number in range(300):
        assert cells["server"].request("site-1", "math", "double", number, timeout=10).payload == 2 * number
    before = time.process_time()
    threading.Event().wait(_QUIET)
    used = time.process_time() - before
    assert used < 0.1 * _QUIET, f"{used * 1000:.0f} ms of processor time in {_QUIET * 1000:.0f} ms of silence"
