"""Metrics at the end: what was recorded before a result is there when the exchange has stopped, over every pipe."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.agent.conftest import Place
from tests.eventually import eventually
from zcell.agent import Agent, TaskExchange, exchange
from zcell.agent.arrivals import Arrivals
from zcell.agent.task import METRICS
from zcell.pipe import Message, Mode

COUNT = 3000


class Receiver:
    """A callback that waits in its first record until it may go on."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.reached = threading.Event()
        self.may_go_on = threading.Event()

    def __call__(self, record: Any) -> None:
        self.reached.set()
        assert self.may_go_on.wait(20)
        self.records.append(record)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.may_go_on.set()


def _log_and_answer(agent: Agent, count: int = COUNT) -> None:
    task = agent.get_task(10)
    assert task is not None
    for number in range(count):
        assert agent.log(number)
    assert agent.submit_result(task.data)


def _stop(place: Place, made: TaskExchange, receiver: Receiver) -> None:
    """Stop it while its callback waits."""
    stopped = place.meanwhile(made.stop)
    eventually(lambda: made._state != "running")
    receiver.may_go_on.set()
    stopped.result(20)


def test_records_before_a_result_are_there_when_the_exchange_has_stopped(place: Place, receiver: Receiver) -> None:
    made, agent = place.both(metrics=True)
    made.on_metric(receiver)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    assert receiver.reached.wait(10)
    _stop(place, made, receiver)
    assert receiver.records == list(range(COUNT))
    answered.result(10)


def test_a_result_does_not_wait_for_the_records_before_it(place: Place, receiver: Receiver) -> None:
    made, agent = place.both(metrics=True)
    made.on_metric(receiver)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    assert receiver.records == []


def test_records_of_a_job_of_one_task_are_there_too(place: Place, receiver: Receiver) -> None:
    made = place.exchange(metrics=True)
    made.on_metric(receiver)
    agent = place.agent(metrics=True, launch_once=False).start()
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    assert receiver.reached.wait(10)
    left = place.meanwhile(agent.stop)
    _stop(place, made, receiver)
    left.result(20)
    assert receiver.records == list(range(COUNT))


def test_what_was_taken_from_a_job_that_is_gone_is_handed_to_the_callback(place: Place, receiver: Receiver) -> None:
    made, agent = place.both(metrics=True)
    made.on_metric(receiver)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    assert agent.flush_metrics(10)
    assert receiver.reached.wait(10)
    made.peer_is_gone("exit code 0")
    stopped = place.meanwhile(made.stop)
    eventually(lambda: made._metric_handler is not None and made._metric_handler.is_over)
    receiver.may_go_on.set()
    stopped.result(20)
    assert receiver.records == list(range(COUNT))


def _hold_back(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Records are accepted and not sent until the returned function is called."""
    assert agent._metric_handler is not None
    go_on = threading.Event()
    send = agent._metric_handler.send_to_peer

    def wait_and_send(*arguments: Any) -> bool:
        return go_on.wait(20) and send(*arguments)

    monkeypatch.setattr(agent._metric_handler, "send_to_peer", wait_and_send)
    return go_on.set


def test_a_stop_waits_for_records_that_the_job_has_not_sent_yet(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made, agent = place.both(metrics=True)
    records: list[Any] = []
    made.on_metric(records.append)
    go_on = _hold_back(agent, monkeypatch)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    stopped = place.meanwhile(made.stop)
    eventually(lambda: agent._closing.triggered)
    assert records == []
    go_on()
    stopped.result(20)
    assert records == list(range(COUNT))


def test_a_stop_waits_for_records_of_a_job_that_is_just_leaving(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end of the task pipe is closed already, so that it does not take the exchange's word."""
    made, agent = place.both(metrics=True)
    records: list[Any] = []
    made.on_metric(records.append)
    go_on = _hold_back(agent, monkeypatch)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    told = threading.Event()

    def not_taken(data: Any) -> bool:
        told.set()
        return False

    assert made._dispatcher._current is not None
    monkeypatch.setattr(made._dispatcher._current.handler, "notify_end", not_taken)
    stopped = place.meanwhile(made.stop)
    assert told.wait(10)
    go_on()
    stopped.result(20)
    assert records == list(range(COUNT))


def test_a_stop_ends_its_wait_when_it_learns_that_the_job_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made, agent = place.both(metrics=True)
    go_on = _hold_back(agent, monkeypatch)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    begun = time.monotonic()
    stopped = place.meanwhile(made.stop)
    eventually(lambda: agent._closing.triggered)
    made.peer_is_gone("killed")
    stopped.result(20)
    assert time.monotonic() - begun < exchange._METRICS_TIMEOUT
    go_on()


def test_a_stop_does_not_wait_for_records_of_a_job_that_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made, agent = place.both(metrics=True)
    go_on = _hold_back(agent, monkeypatch)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    made.peer_is_gone("killed")
    begun = time.monotonic()
    made.stop()
    assert time.monotonic() - begun < exchange._METRICS_TIMEOUT
    go_on()


def test_a_stop_waits_no_longer_than_it_may(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exchange, "_METRICS_TIMEOUT", 0.1)
    made, agent = place.both(metrics=True)
    go_on = _hold_back(agent, monkeypatch)
    answered = place.meanwhile(_log_and_answer, agent)
    assert made.run("t", 1, timeout=20).data == 1
    answered.result(10)
    made.stop()
    assert "did not arrive within 0.1 s" in caplog.text
    go_on()


def test_an_exchange_can_be_stopped_by_its_callback(place: Place) -> None:
    made, agent = place.both(metrics=True)
    done = threading.Event()

    @made.on_metric
    def stop(record: Any) -> None:
        if not done.is_set():
            made.stop()
            done.set()

    place.meanwhile(_log_and_answer, agent, 10)
    assert made.run("t", 1, timeout=20).cause.value in ("COMPLETED", "CLOSED")
    begun = time.monotonic()
    assert done.wait(20)
    assert time.monotonic() - begun < exchange._METRICS_TIMEOUT


def test_records_come_before_the_end_of_an_exchange_for_asyncio(place: Place) -> None:
    from zcell.agent import aio

    async def main() -> None:
        records: list[Any] = []
        pipes = [place.pairs.build(Mode.PASSIVE, place.token) for _ in range(2)]
        async with aio.TaskExchange(*pipes) as made:
            made.on_metric(records.append)
            agent = place.agent(metrics=True).start()
            answered = place.meanwhile(_log_and_answer, agent)
            assert (await made.run("t", 1, timeout=20)).data == 1
        assert records == list(range(COUNT))
        answered.result(10)

    asyncio.run(main())


# what is waited for, without pipes


def _message(agent: str, count: Any) -> Message:
    message = Message.new_request("t")
    message.headers[METRICS] = [agent, count]
    return message


def test_what_was_promised_is_waited_for() -> None:
    arrivals = Arrivals()
    assert arrivals.wait(0)
    arrivals.promised(_message("a", 5))
    assert not arrivals.wait(0)
    arrivals.arrived(_message("a", 4))
    arrivals.arrived(_message("b", 9))
    assert not arrivals.wait(0)
    arrivals.arrived(_message("a", 5))
    assert arrivals.wait(0)


def test_what_cannot_come_is_not_waited_for() -> None:
    arrivals = Arrivals()
    arrivals.arrived(_message("a", 1))
    arrivals.promised(_message("b", 5))
    arrivals.ended()  # the conversation of the job before
    assert not arrivals.wait(0)
    arrivals.arrived(_message("b", 1))
    arrivals.ended()
    assert arrivals.wait(0)
    arrivals.promised(_message("c", 5))
    assert not arrivals.wait(0)
    arrivals.job_is_gone()
    assert arrivals.wait(0)


@pytest.mark.parametrize("mark", [None, [], ["a"], [1, "a"], ["a", "1"], {"a": 1}])
def test_a_mark_that_says_nothing_is_none(mark: Any) -> None:
    arrivals = Arrivals()
    message = Message.new_request("t")
    message.headers[METRICS] = mark
    arrivals.promised(message)
    arrivals.arrived(message)
    assert arrivals.wait(0)
