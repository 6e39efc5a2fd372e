"""Exchange and agent together, over every pipe: what a user of both sees."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.agent.conftest import Place, serve
from tests.eventually import eventually
from zcell.abort import Abort
from zcell.agent import (
    Agent,
    AgentAborted,
    AgentClosed,
    AgentEnded,
    AgentFinished,
    CallStateError,
    Cause,
    Task,
    TaskError,
    TaskExchange,
)
from zcell.errors import CodecError
from zcell.message import ReturnCode
from zcell.pipe import Message, PeerState, Topic


def test_a_task_goes_out_and_its_result_comes_back(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "train", {"lr": 0.1}, task_id="t-1", current_round=2, total_rounds=5)
    task = agent.get_task(10)
    assert task is not None
    assert (task.task_id, task.task_name, task.data) == ("t-1", "train", {"lr": 0.1})
    assert (task.current_round, task.total_rounds, task.receivers) == (2, 5, ())
    assert agent.submit_result({"loss": 0.5})
    got = result.result(10)
    assert got.ok
    assert got.raise_for_cause() is got
    assert (got.task_id, got.task_name, got.cause, got.data) == ("t-1", "train", Cause.COMPLETED, {"loss": 0.5})
    assert (got.attempts, got.error) == (1, "")
    assert got.seconds > 0


def test_many_tasks_are_served_one_after_the_other(place: Place) -> None:
    exchange, agent = place.both()
    served = place.meanwhile(serve, agent)
    assert [exchange.run("t", n, timeout=10).data for n in range(30)] == list(range(30))
    exchange.stop()
    assert served.result(10) == 30


def test_tasks_that_are_run_at_once_are_all_done(place: Place) -> None:
    exchange, agent = place.both()
    place.meanwhile(serve, agent)
    runs = [place.meanwhile(exchange.run, "t", n, timeout=20) for n in range(6)]
    assert [r.result(20).data for r in runs] == list(range(6))


def test_a_task_waits_for_its_agent_to_start(place: Place) -> None:
    exchange = place.exchange()
    result = place.meanwhile(exchange.run, "t", 1, timeout=20)
    assert not exchange.wait_for_peer(0.05)
    agent = place.agent().start()
    place.meanwhile(serve, agent)
    assert result.result(10).data == 1
    assert exchange.wait_for_peer(1)
    assert exchange.peer_state is PeerState.LIVE


def test_without_an_agent_a_task_ends_as_no_peer(place: Place) -> None:
    result = place.exchange(peer_timeout=0.2).run("t")
    assert result.cause is Cause.NO_PEER
    assert "0.2 s" in result.error
    assert result.rc is None


def test_a_task_ends_with_its_timeout_and_its_late_result_is_dropped(place: Place) -> None:
    exchange, agent = place.both()
    slow = place.meanwhile(exchange.run, "slow", timeout=2)
    assert agent.get_task(5) is not None
    assert slow.result(5).cause is Cause.TIMEOUT
    assert agent.submit_result("late")
    place.meanwhile(serve, agent)
    assert exchange.run("t", "next", timeout=10).data == "next"


@pytest.mark.parametrize("there", [True, False])
def test_an_abort_ends_a_task_at_once(place: Place, there: bool) -> None:
    exchange = place.exchange()
    if there:
        place.agent().start()
        assert exchange.wait_for_peer(10)
    abort = Abort()
    result = place.meanwhile(exchange.run, "t", abort=abort)
    abort.trigger("changed my mind")
    got = result.result(5)
    assert (got.cause, got.error) == (Cause.ABORTED, "changed my mind")
    with pytest.raises(TaskError, match="ABORTED: changed my mind"):
        got.raise_for_cause()


def test_an_agent_says_how_it_went(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "t")
    assert agent.get_task(10)
    assert agent.submit_result(None, ReturnCode.PROCESS_EXCEPTION, "no data here")
    got = result.result(10)
    assert (got.cause, got.rc, got.error, got.ok) == (Cause.COMPLETED, ReturnCode.PROCESS_EXCEPTION, "no data here", False)


# the order of calls


def test_a_task_must_be_answered_before_the_next(place: Place) -> None:
    exchange, agent = place.both()
    place.meanwhile(exchange.run, "t", timeout=20)
    assert agent.get_task(10)
    with pytest.raises(CallStateError, match="no result yet"):
        agent.get_task(0)
    assert agent.submit_result(1)
    assert agent.get_task(0.01) is None


def test_a_result_without_a_task_is_false(place: Place) -> None:
    _, agent = place.both()
    assert agent.submit_result(1) is False


def test_a_result_is_sent_once(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "t", timeout=20)
    assert agent.get_task(10)
    assert agent.submit_result(1)
    assert not agent.submit_result(2)
    assert result.result(5).data == 1


def test_calls_before_start_and_after_stop_say_so(place: Place) -> None:
    agent = place.agent()
    with pytest.raises(CallStateError, match="start"):
        agent.get_task(0)
    agent.start()
    with pytest.raises(CallStateError, match="once"):
        agent.start()
    agent.stop()
    agent.stop()
    with pytest.raises(AgentClosed, match="stopped"):
        agent.get_task(0)
    exchange = place.exchange()
    exchange.stop()
    with pytest.raises(CallStateError, match="stopped"):
        exchange.run("t")


def test_an_agent_without_pipes_is_refused() -> None:
    with pytest.raises(ValueError, match="pipe"):
        Agent()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"timeout": 0}, "timeout"), ({"receivers": "site-1"}, "receivers"), ({"task_name": ""}, "task_name")],
)
def test_wrong_arguments_are_named(place: Place, arguments: dict[str, Any], named: str) -> None:
    exchange = place.exchange()
    with pytest.raises((ValueError, TypeError), match=named):
        exchange.run(**{"task_name": "t", **arguments})


def test_data_that_cannot_travel_is_the_callers_error(place: Place) -> None:
    exchange, agent = place.both()
    with pytest.raises(CodecError, match=r"^data\['x'\] cannot be encoded: type object "):
        exchange.run("t", {"x": object()}, timeout=10)
    place.meanwhile(serve, agent)
    assert exchange.run("t", 1, timeout=10).ok


def test_data_that_cannot_travel_is_refused_while_no_job_is_there_too(place: Place) -> None:
    exchange = place.exchange()
    refused = pytest.raises(CodecError, match=r"^data\['x'\]\[0\] cannot be encoded: type set is not supported")
    with refused:
        exchange.run("t", {"x": [{1, 2}]})
    with refused:
        asyncio.run(exchange.run_async("t", {"x": [{1, 2}]}))
    waiting = place.meanwhile(exchange.run, "t", 1, timeout=20)
    eventually(lambda: not exchange._dispatcher.is_free)
    with refused:
        exchange.run("t", {"x": [{1, 2}]})
    place.meanwhile(serve, place.agent().start())
    assert waiting.result(20).data == 1


def test_a_result_that_cannot_travel_is_false_and_the_parent_learns_why(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "t", timeout=20)
    assert agent.get_task(10)
    assert agent.submit_result({"model": object()}) is False
    got = result.result(5)
    assert got.rc is ReturnCode.PROCESS_EXCEPTION
    assert got.error.startswith("the result cannot travel: result['model'] cannot be encoded: type object is not supported")


# hooks


class Doubling(Agent):
    def task_to_data(self, task: Task) -> Any:
        if task.data == "bad":
            raise KeyError("weights")
        return task.data * (task.current_round or 1)

    def result_to_message(self, result: Any, rc: ReturnCode) -> Any:
        if result == "bad":
            raise KeyError("model")
        return {"value": result}


class Unwrapping(TaskExchange):
    def data_to_task(self, data: Any) -> Any:
        return data["in"]

    def message_to_data(self, data: Any) -> Any:
        return data["value"]


def test_the_agents_hooks_convert_both_ways(place: Place) -> None:
    exchange = place.exchange()
    agent = place.agent(kind=Doubling).start()
    place.meanwhile(serve, agent)
    assert exchange.run("t", 21, current_round=2, timeout=10).data == {"value": 42}


def test_a_task_that_cannot_be_converted_is_answered_and_the_next_one_served(place: Place) -> None:
    exchange = place.exchange()
    agent = place.agent(kind=Doubling).start()
    served = place.meanwhile(serve, agent)
    got = exchange.run("t", "bad", timeout=10)
    assert got.rc is ReturnCode.PROCESS_EXCEPTION
    assert "weights" in got.error
    assert exchange.run("t", 1, timeout=10).ok
    exchange.stop()
    assert served.result(5) == 1


def test_a_result_that_cannot_be_converted_is_false_and_told(place: Place) -> None:
    exchange = place.exchange()
    agent = place.agent(kind=Doubling).start()
    result = place.meanwhile(exchange.run, "t", 1, timeout=20)
    assert agent.get_task(10)
    assert not agent.submit_result("bad")
    assert "model" in result.result(5).error


def test_the_exchanges_hooks_convert_both_ways(place: Place) -> None:
    from zcell.pipe import Mode

    exchange = Unwrapping(place.pairs.build(Mode.PASSIVE, place.token))
    agent = place.agent(kind=Doubling)
    with exchange:
        place.meanwhile(serve, agent.start())
        assert exchange.run("t", {"in": 3}, timeout=10).data == 3


def test_what_the_agent_answers_by_itself_does_not_go_through_the_exchanges_hook(place: Place) -> None:
    from zcell.pipe import Mode

    exchange = Unwrapping(place.pairs.build(Mode.PASSIVE, place.token))
    agent = place.agent(kind=Doubling)
    with exchange:
        place.meanwhile(serve, agent.start())
        got = exchange.run("t", {"in": "bad"}, timeout=10)
        assert (got.cause, got.rc) == (Cause.COMPLETED, ReturnCode.PROCESS_EXCEPTION)
        assert "weights" in got.error


def test_a_failed_job_is_heard_though_the_exchanges_hook_expected_more(place: Place) -> None:
    from zcell.pipe import Mode

    exchange = Unwrapping(place.pairs.build(Mode.PASSIVE, place.token))
    agent = place.agent()
    with exchange:
        agent.start()
        result = place.meanwhile(exchange.run, "t", {"in": 1}, timeout=10)
        assert agent.get_task(10)
        assert agent.submit_result(None, ReturnCode.PROCESS_EXCEPTION, "no data here")
        got = result.result(10)
        assert (got.cause, got.rc, got.error) == (Cause.COMPLETED, ReturnCode.PROCESS_EXCEPTION, "no data here")
        result = place.meanwhile(exchange.run, "t", {"in": 1}, timeout=10)
        assert agent.get_task(10)
        assert agent.submit_result(None)
        assert result.result(10).cause is Cause.RESULT_LOST


def test_a_result_that_cannot_be_handed_over_is_told_in_a_word(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk that a FilePipe uses is full, and a small file still finds room."""
    exchange = place.exchange()
    agent = place.agent(submit_result_timeout=0.5, resend_interval=0.1).start()
    assert agent._handler is not None
    pipe = agent._handler.pipe
    send = pipe.send

    def full(message: Message, timeout: float | None = None, abort: Abort | None = None) -> bool:
        if isinstance(message.data, dict) and message.data.get("data") is not None:
            pipe.last_error = "cannot write: No space left on device"
            return False
        return send(message, timeout, abort)

    monkeypatch.setattr(pipe, "send", full)
    result = place.meanwhile(exchange.run, "t")
    assert agent.get_task(10)
    assert not agent.submit_result("large")
    got = result.result(10)
    assert (got.cause, got.rc) == (Cause.COMPLETED, ReturnCode.COMM_ERROR)
    assert got.error == "the result could not be handed over: cannot write: No space left on device"


# endings


def test_an_ended_exchange_ends_the_agent(place: Place) -> None:
    exchange, agent = place.both()
    assert exchange.wait_for_peer(10)
    waiting = place.meanwhile(agent.get_task)
    exchange.stop()
    with pytest.raises(AgentEnded):
        waiting.result(5)
    with pytest.raises(AgentEnded):
        agent.get_task()
    assert list(agent) == []


def test_an_aborting_exchange_aborts_the_agent_and_its_loop(place: Place) -> None:
    exchange, agent = place.both()
    assert exchange.wait_for_peer(10)
    served = place.meanwhile(serve, agent)
    exchange.abort("budget spent")
    with pytest.raises(AgentAborted, match="budget spent"):
        served.result(5)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("end", "the parent has ended: the exchange was stopped"),
        ("abort", "the parent aborts: budget spent"),
        ("gone", "the parent is gone: silent"),
        ("stop", "the agent was stopped"),
    ],
)
def test_a_job_that_computes_can_see_that_its_parent_does_not_wait_any_longer(place: Place, how: str, reason: str) -> None:
    exchange, agent = place.both()
    place.meanwhile(exchange.run, "t")
    assert agent.get_task(10)
    seen = {agent.closed_reason}
    assert seen == {None}
    if how == "end":
        exchange.stop()
    elif how == "abort":
        exchange.abort("budget spent")
    elif how == "gone":
        assert agent._handler is not None
        agent._handler.end(Topic.PEER_GONE, "silent")
    else:
        agent.stop()
    eventually(lambda: agent.closed_reason == reason)
    agent.stop()
    assert agent.closed_reason == reason


def test_an_agent_of_one_task_says_that_it_is_done(place: Place) -> None:
    exchange = place.exchange()
    agent = place.agent(launch_once=False).start()
    running = place.meanwhile(exchange.run, "t", timeout=20)
    assert agent.get_task(10)
    assert agent.submit_result(1)
    assert running.result(10).ok
    assert agent.closed_reason == "this process was for one task, and it has been done"


def test_a_stopped_agent_ends_its_task_with_the_cause(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "t")
    assert agent.get_task(10)
    agent.stop()
    got = result.result(5)
    assert got.cause is Cause.PEER_ENDED
    assert not agent.submit_result(1)


class TaskFailed(Exception):
    """As a user's own."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("oops in the task"), "KeyError: 'oops in the task'"),
        (TaskFailed("half way \ud800"), "tests.agent.test_exchange.TaskFailed: half way \\ud800"),
        (SystemExit(5), "SystemExit: 5"),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * 986),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_that_ends_a_task_is_told_to_the_parent(place: Place, error: BaseException, told: str) -> None:
    exchange = place.exchange()
    result = place.meanwhile(exchange.run, "t")

    def job() -> None:
        with place.agent() as agent:
            assert agent.get_task(10)
            raise error

    with pytest.raises(type(error)):
        job()
    got = result.result(5)
    assert (got.cause, got.error) == (Cause.PEER_ENDED, f"the job ended before it answered: {told}")


def test_an_exception_in_an_asyncio_job_is_told_to_the_parent(place: Place) -> None:
    from zcell.agent import aio

    exchange = place.exchange()
    result = place.meanwhile(exchange.run, "t")

    async def job() -> None:
        async with aio.Agent.of(place.agent()) as agent:
            assert await agent.get_task(10)
            raise KeyError("oops")

    with pytest.raises(KeyError):
        asyncio.run(job())
    assert result.result(5).error == "the job ended before it answered: KeyError: 'oops'"


def test_a_stopped_exchange_ends_its_tasks_with_the_cause(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "t")
    assert agent.get_task(10)
    exchange.stop()
    assert result.result(5).cause is Cause.CLOSED


def test_a_job_known_to_be_dead_ends_its_task_at_once(place: Place) -> None:
    exchange, agent = place.both()
    result = place.meanwhile(exchange.run, "t")
    assert agent.get_task(10)
    exchange.peer_is_gone("exit code 137")
    got = result.result(5)
    assert got.cause is Cause.PEER_GONE
    assert "exit code 137" in got.error


def test_a_task_is_handed_to_the_next_job_when_its_job_dies_and_retries_are_allowed(place: Place) -> None:
    exchange = place.exchange(retries=1, peer_timeout=20)
    first = place.agent().start()
    result = place.meanwhile(exchange.run, "t", "data", timeout=30)
    assert first.get_task(10)
    first.stop()
    second = place.agent().start()
    place.meanwhile(serve, second)
    got = result.result(20)
    assert (got.ok, got.attempts, got.data) == (True, 2, "data")


def test_retries_are_used_up(place: Place) -> None:
    exchange = place.exchange(retries=1, peer_timeout=20)
    result = place.meanwhile(exchange.run, "t", timeout=30)
    for _ in range(2):
        agent = place.agent().start()
        assert agent.get_task(10)
        agent.stop()
    got = result.result(20)
    assert (got.cause, got.attempts) == (Cause.PEER_ENDED, 2)


def test_a_task_that_was_not_begun_goes_to_the_next_job_without_counting(place: Place) -> None:
    exchange = place.exchange(retries=0, peer_timeout=20)
    first = place.agent().start()
    begun = place.meanwhile(exchange.run, "t", 1, timeout=30)
    assert first.get_task(10)
    queued = place.meanwhile(exchange.run, "t", 2, timeout=30)
    eventually(lambda: first._tasks._items)
    first.stop()
    place.meanwhile(serve, place.agent().start())
    assert begun.result(10).cause is Cause.PEER_ENDED
    assert queued.result(20).data == 2


def test_one_process_a_task(place: Place) -> None:
    exchange = place.exchange(peer_timeout=20)
    for number in range(3):
        agent = place.agent(launch_once=False).start()
        served = place.meanwhile(serve, agent)
        assert exchange.run("t", number, timeout=20).data == number
        assert served.result(10) == 1
        with pytest.raises(AgentFinished):
            agent.get_task()
        agent.stop()


# metrics


def test_metrics_arrive_in_order(place: Place) -> None:
    exchange, agent = place.both(metrics=True)
    got: list[Any] = []
    exchange.on_metric(got.append)
    for step in range(2000):
        assert agent.log({"step": step, "loss": 1 / (step + 1)})
    assert agent.flush_metrics(10)
    eventually(lambda: len(got) == 2000)
    assert [r["step"] for r in got] == list(range(2000))


def test_metrics_without_a_pipe_are_an_error(place: Place) -> None:
    _, agent = place.both()
    with pytest.raises(RuntimeError, match="metric pipe"):
        agent.log({"loss": 1.0})


def test_a_metric_that_cannot_travel_is_the_callers_error(place: Place) -> None:
    _, agent = place.both(metrics=True)
    with pytest.raises(ValueError, match=r"^record cannot be encoded: type object "):
        agent.log(object())
    assert agent.log(1)


def test_a_callback_that_raises_costs_no_other_record(place: Place) -> None:
    exchange, agent = place.both(metrics=True)
    got: list[Any] = []

    @exchange.on_metric
    def careless(record: Any) -> None:
        got.append(record)
        raise ValueError("mine")

    for n in range(5):
        assert agent.log(n)
    eventually(lambda: got == [0, 1, 2, 3, 4])


def test_stop_sends_the_metrics_that_wait(place: Place) -> None:
    exchange, agent = place.both(metrics=True)
    got: list[Any] = []
    exchange.on_metric(got.append)
    for n in range(500):
        assert agent.log(n)
    agent.stop()
    eventually(lambda: len(got) == 500)
    assert not agent.log(1)


def test_the_next_jobs_metrics_arrive_too(place: Place) -> None:
    exchange = place.exchange(metrics=True, peer_timeout=20)
    got: list[Any] = []
    exchange.on_metric(got.append)
    for n in range(2):
        agent = place.agent(metrics=True).start()
        place.meanwhile(serve, agent)
        assert exchange.run("t", n, timeout=20).ok
        assert agent.log(n)
        agent.stop()
    eventually(lambda: got == [0, 1])


def test_metrics_alone_need_no_task_pipe(place: Place) -> None:
    from zcell.pipe import Mode

    exchange = place.exchange(metrics=True)
    got: list[Any] = []
    exchange.on_metric(got.append)
    with Agent(None, place.pairs.build(Mode.ACTIVE, place.token)) as agent:
        assert agent.log("only")
        with pytest.raises(CallStateError, match="task pipe"):
            agent.get_task(0)
        eventually(lambda: got == ["only"])


def test_tasks_go_on_beside_many_metrics(place: Place) -> None:
    exchange, agent = place.both(metrics=True)
    count = 0
    done = threading.Event()

    @exchange.on_metric
    def on_metric(record: Any) -> None:
        nonlocal count
        count += 1

    def chatter() -> None:
        pause = threading.Event()
        while not done.is_set():
            for step in range(50):
                agent.log({"step": step})
            pause.wait(0.01)

    noise = place.meanwhile(chatter)
    place.meanwhile(serve, agent)
    for n in range(50):
        assert exchange.run("t", n, timeout=10).data == n
    done.set()
    noise.result(5)
    assert count > 0


# asyncio


def test_exchange_and_agent_for_asyncio(place: Place) -> None:
    from zcell.agent import aio
    from zcell.pipe import Mode

    async def job(agent: aio.Agent, late: asyncio.Event) -> int:
        count = 0
        async for task in agent:
            assert agent.log({"n": task.data})
            if task.task_name == "slow":
                await late.wait()
            await agent.submit_result(task.data + 1)
            count += 1
        return count

    async def main() -> None:
        pipes = [place.pairs.build(m, place.token) for m in (Mode.PASSIVE, Mode.PASSIVE, Mode.ACTIVE, Mode.ACTIVE)]
        got: list[Any] = []
        async with aio.TaskExchange(*pipes[:2]) as exchange:
            exchange.on_metric(got.append)
            async with aio.Agent(*pipes[2:], launch_once=True) as agent:
                assert await agent.get_task(0.01) is None
                late = asyncio.Event()
                served = asyncio.create_task(job(agent, late))
                results = await asyncio.gather(*(exchange.run("t", n, timeout=20) for n in range(5)))
                assert [r.data for r in results] == [1, 2, 3, 4, 5]
                assert (await exchange.run("slow", 0, timeout=0.05)).cause is Cause.TIMEOUT
                late.set()
                await asyncio.to_thread(eventually, lambda: len(got) >= 5)
                await exchange.stop()
                assert await asyncio.wait_for(served, 10) >= 5

    asyncio.run(main())


def test_a_cancelled_run_is_aborted(place: Place) -> None:
    exchange, agent = place.both()

    async def main() -> None:
        running = asyncio.create_task(exchange.run_async("t"))
        task = await asyncio.to_thread(agent.get_task, 10)
        assert task is not None
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert agent.submit_result("late")


def test_a_cancelled_get_task_takes_no_task(place: Place) -> None:
    from zcell.agent import aio

    exchange, agent = place.both()

    async def main() -> None:
        mirror = aio.Agent.of(agent)
        waiting = asyncio.create_task(mirror.get_task())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        run = asyncio.create_task(exchange.run_async("t", 1, timeout=20))
        task = await mirror.get_task(10)
        assert task is not None
        assert await mirror.submit_result(task.data)
        assert (await run).data == 1

    asyncio.run(main())
