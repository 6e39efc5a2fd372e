"""Jobs in real processes: killed, stopped, crashing, leaving; over every pipe, every wait ends with its named reason."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
import pytest

from tests.agent.conftest import KINDS_FOR_PROCESSES, Place
from tests.agent.job import Job
from tests.agent.parent import Parent
from tests.eventually import eventually
from tests.pipe.pairs import FilePairs
from zcell.agent import Cause, TaskExchange
from zcell.pipe import Mode, PeerState

pytestmark = pytest.mark.parametrize("pairs", KINDS_FOR_PROCESSES, indirect=True)
QUICK: dict[str, Any] = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1.5}


def _quick(place: Place, **options: Any) -> TaskExchange:
    return place.exchange(**QUICK, peer_timeout=30, **options)


def _job(exchange: TaskExchange, what: str = "serve", *, launch_once: bool = True, **options: Any) -> Job:
    return Job(what, exchange.job_environment(launch_once=launch_once, **{**QUICK, **options}))


def test_a_killed_job_ends_its_task_as_peer_gone(place: Place) -> None:
    exchange = _quick(place)
    with _job(exchange) as job:
        assert exchange.run("t", 1, timeout=30).data == 1
        running = place.meanwhile(exchange.run, "t", "hold")
        job.expect("holding")
        job.process.kill()
        begun = time.monotonic()
        got = running.result(10)
        assert got.cause is Cause.PEER_GONE
        assert "silent for 1.5 s" in got.error
        assert time.monotonic() - begun < 5


def test_an_exchange_whose_job_is_known_to_be_dead_stops_at_once_and_leaves_nothing(place: Place) -> None:
    exchange = place.exchange(metrics=True)
    with _job(exchange) as job:
        assert exchange.run("t", 1, timeout=30).data == 1
        assert exchange._metric_handler is not None
        metrics = exchange._metric_handler
        eventually(lambda: metrics.peer_state is PeerState.LIVE)
        job.process.kill()
        job.wait()
    exchange.peer_is_gone("exit code -9")
    begun = time.monotonic()
    exchange.stop()
    assert time.monotonic() - begun < 3
    if isinstance(place.pairs, FilePairs):
        assert not place.pairs.directory_of(place.token).exists()


def test_a_task_of_a_killed_job_is_done_by_the_next_one(place: Place) -> None:
    exchange = _quick(place, retries=1)
    with _job(exchange) as job:
        running = place.meanwhile(exchange.run, "t", "hold", timeout=60)
        job.expect("holding")
        job.process.kill()
        job.wait()
        eventually(lambda: exchange.peer_state is PeerState.WAITING)
        with _job(exchange) as second:
            second.expect("holding")
            second.process.kill()
            assert running.result(20).attempts == 2


def test_a_job_killed_between_tasks_is_replaced_without_anyone_noticing(place: Place) -> None:
    exchange = _quick(place)
    for number in range(2):
        with _job(exchange) as job:
            assert exchange.run("t", number, timeout=60).data == number
            job.process.kill()
            job.wait()
            eventually(lambda: exchange.peer_state is PeerState.WAITING)


def test_a_job_killed_in_the_middle_of_its_result_is_named(place: Place) -> None:
    exchange = _quick(place)
    with _job(exchange) as job:
        assert exchange.run("t", 1, timeout=30).ok
        running = place.meanwhile(exchange.run, "large", 40_000_000)
        job.expect("submitted True")  # of the first task
        while not running.done() and exchange.peer_state is PeerState.LIVE:
            if job.process.poll() is None:
                job.process.kill()
        got = running.result(90)
        assert got.cause in (Cause.PEER_GONE, Cause.RESULT_LOST)
        assert got.error


def test_a_job_that_freezes_in_the_middle_of_its_result_holds_up_nobody(place: Place) -> None:
    exchange = _quick(place)
    with _job(exchange) as job:
        assert exchange.run("t", 1, timeout=30).ok
        running = place.meanwhile(exchange.run, "large", 40_000_000)
        job.expect("submitted True")  # of the first task
        job.signal(signal.SIGSTOP)
        assert running.result(20).cause in (Cause.PEER_GONE, Cause.RESULT_LOST, Cause.COMPLETED)
        job.process.kill()
        job.wait()
        eventually(lambda: exchange.peer_state is PeerState.WAITING)
        with _job(exchange) as second:
            assert exchange.run("t", 2, timeout=30).data == 2
            exchange.stop()
            second.wait()


def test_a_stopped_job_goes_on_when_it_returns_in_time(place: Place) -> None:
    exchange = place.exchange(heartbeat_interval=0.2, heartbeat_timeout=20, peer_timeout=30)
    with _job(exchange, heartbeat_timeout=1.0) as job:
        assert exchange.run("t", 1, timeout=30).ok
        job.signal(signal.SIGSTOP)
        frozen = exchange.run("t", 2, timeout=1.5)  # longer than the job's own patience with its parent
        assert frozen.cause is Cause.TIMEOUT
        job.signal(signal.SIGCONT)
        assert exchange.run("t", 3, timeout=30).data == 3
        exchange.stop()


def test_a_job_stopped_for_too_long_is_gone_and_may_come_back(place: Place) -> None:
    exchange = _quick(place)
    with _job(exchange, heartbeat_timeout=30) as job:
        assert exchange.run("t", 1, timeout=30).ok
        job.signal(signal.SIGSTOP)
        assert exchange.run("t", 2).cause in (Cause.PEER_GONE, Cause.SEND_FAILED)
        job.signal(signal.SIGCONT)
        assert exchange.run("t", 3, timeout=30).data == 3
        exchange.stop()


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("raise", 1), ("thread", 3)])
def test_a_parent_that_ends_without_stopping_its_exchange_tells_the_job(place: Place, how: str, code: int) -> None:
    pipe = place.pairs.build(Mode.PASSIVE, place.token)
    path, kwargs = pipe.export(Mode.PASSIVE)
    pipe.close()
    begun = time.monotonic()
    with Parent(path, kwargs, how) as parent, Job("tell", parent.job_environment()) as job:
        job.expect("ready")
        job.expect("submitted True")
        if how == "thread":  # what it has under way is waited for
            job.expect("submitted True")
            parent.expect("2")
        job.expect("ended")
        assert parent.process.wait(20) == code
    assert time.monotonic() - begun < 30


def test_a_job_ends_when_its_parent_is_killed(place: Place) -> None:
    pipe = place.pairs.build(Mode.PASSIVE, place.token)
    path, kwargs = pipe.export(Mode.PASSIVE)
    pipe.close()
    with Parent(path, kwargs) as parent, Job("tell", parent.job_environment()) as job:
        job.expect("ready")
        parent.expect("done")
        parent.process.kill()
        job.expect("AgentPeerGone")
        assert job.wait() == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_just_exits_keeps_its_code_and_says_goodbye(place: Place, code: int) -> None:
    exchange = place.exchange(peer_timeout=30)
    with _job(exchange, "exit", heartbeat_timeout=60) as job:
        assert exchange.run("t", code, timeout=30).data == code
        begun = time.monotonic()
        assert job.wait() == code
        eventually(lambda: exchange.peer_state is PeerState.WAITING)
        assert time.monotonic() - begun < 10


def test_a_main_thread_that_ends_ends_the_worker_that_waits_for_tasks(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    with _job(exchange, "worker", heartbeat_timeout=60) as job:
        job.expect("ready")
        job.expect("worker ended")
        assert job.wait() == 0


def test_an_exception_is_the_jobs_own_exit_code_and_ends_its_task(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    with _job(exchange, "crash", heartbeat_timeout=60) as job:
        got = exchange.run("t", timeout=30)
        assert got.cause is Cause.PEER_ENDED
        assert job.wait() == 1
        assert job.process.stderr is not None
        assert "the user's mistake" in job.process.stderr.read()


def test_one_process_a_task_exits_by_itself_once_its_result_is_delivered(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    for _ in range(2):
        with _job(exchange, "tell", launch_once=False, heartbeat_timeout=60) as job:
            got = exchange.run("large", 2_000_000, timeout=60)
            assert got.ok, got.error
            np.testing.assert_array_equal(got.data, np.ones(2_000_000))
            job.expect("submitted True")
            job.expect("ended")
            assert job.wait() == 0


def test_a_job_whose_parent_ends_leaves_normally(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    with _job(exchange, "tell", heartbeat_timeout=60) as job:
        job.expect("ready")
        assert exchange.wait_for_peer(20)
        exchange.stop()
        job.expect("ended")
        assert job.wait() == 0
