"""A result for which a shared directory has no room: the parent is told, and never waits for it without end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.disk import fill
from zcell.agent import Agent, AgentPeerGone, Cause, TaskExchange
from zcell.message import ReturnCode
from zcell.pipe import FilePipe, Mode

QUICK: dict[str, Any] = {"heartbeat_interval": 0.1, "heartbeat_timeout": 1.0, "resend_interval": 0.2}


def test_a_result_that_is_too_large_for_the_disk_is_answered_with_the_reason(small_disk: Path) -> None:
    root = small_disk / "pipe"
    with (
        TaskExchange(FilePipe(Mode.PASSIVE, root)) as exchange,
        ThreadPoolExecutor(1) as pool,
        Agent(FilePipe(Mode.ACTIVE, root), submit_result_timeout=0.5, launch_once=True) as agent,
    ):
        running = pool.submit(exchange.run, "large")
        assert agent.get_task(10)
        assert agent.submit_result(bytes(4 << 20)) is False
        got = running.result(10)
        assert (got.cause, got.rc) == (Cause.COMPLETED, ReturnCode.COMM_ERROR)
        assert "No space left on device" in got.error
        running = pool.submit(exchange.run, "small")
        assert agent.get_task(10)
        assert agent.submit_result(1)
        assert running.result(10).data == 1


def test_a_job_that_cannot_say_a_word_leaves_so_that_nobody_waits_for_it(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcell.agent.agent._LAST_WORD_TIMEOUT", 0.5)
    root = small_disk / "pipe"
    with TaskExchange(FilePipe(Mode.PASSIVE, root), **QUICK) as exchange, ThreadPoolExecutor(1) as pool:
        with Agent(FilePipe(Mode.ACTIVE, root), submit_result_timeout=0.5, launch_once=True, **QUICK) as agent:
            running = pool.submit(exchange.run, "t")
            assert agent.get_task(10)
            fill(small_disk / "filler")
            assert agent.submit_result("no room") is False
            with pytest.raises(AgentPeerGone, match=r"could not be given any answer to task 't'.*No space left on device"):
                agent.get_task(10)
            assert running.result(20).cause is Cause.PEER_GONE
        (small_disk / "filler").unlink()
        with Agent(FilePipe(Mode.ACTIVE, root), launch_once=True, **QUICK) as agent:
            running = pool.submit(exchange.run, "t")
            assert agent.get_task(10)
            assert agent.submit_result("room")
            assert running.result(10).data == "room"
