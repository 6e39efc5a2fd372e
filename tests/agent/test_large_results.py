"""Results that travel by reference: who holds what, when a result counts as delivered, and why not."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.conftest import Place, serve
from tests.eventually import eventually
from tests.pipe.pairs import CellPairs
from zcell import Cell, LazyRef
from zcell.abort import Abort
from zcell.agent import Agent, Cause, TaskExchange
from zcell.download import TransactionStatus
from zcell.errors import DownloadError
from zcell.message import Request
from zcell.pipe import CellPipe, SharedFile

LARGE = 3_000_000
"""Numbers in an array of 24 MB: well above what travels inline."""


@pytest.fixture
def cells(short_path: Path) -> Iterator[Place]:
    """Over cells only: a directory knows no references."""
    with CellPairs(f"ipc://{short_path}/s") as pairs, ExitStack() as stack:
        yield Place(pairs, stack)


def _server(cells: Place) -> Cell:
    assert isinstance(cells.pairs, CellPairs)
    return cells.pairs.server


def test_large_arrays_travel_both_ways_over_every_pipe(place: Place) -> None:
    exchange, agent = place.both()
    place.meanwhile(serve, agent)
    weights = np.arange(LARGE, dtype=np.float64)
    got = exchange.run("train", {"weights": weights, "round": 1}, timeout=60)
    assert got.ok, got.error
    np.testing.assert_array_equal(got.data["weights"], weights)


def _owner(array: Any) -> Any:
    """Whose memory `array` shows."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def test_a_large_array_is_freed_with_its_user_on_both_sides_and_both_ways(cells: Place) -> None:
    """By its last reference, not by a collector, which counts objects and not bytes."""
    exchange, agent = cells.both()
    gc.collect()
    gc.disable()
    try:
        task_data, result_data = np.ones(LARGE), np.ones(LARGE)
        running = cells.meanwhile(exchange.run, "t", task_data, timeout=30)
        task = agent.get_task(10)
        assert task is not None
        assert agent.submit_result(result_data)
        received = [_owner(task.data), _owner(running.result(10).data)]
        assert [type(r) for r in received] == [bytes, bytes]
        sent = [weakref.ref(task_data), weakref.ref(result_data)]
        del task_data, result_data, task, running
        eventually(lambda: all(array() is None for array in sent))
        eventually(lambda: [sys.getrefcount(r) for r in received] == [3, 3])  # the list, the loop and the call
    finally:
        gc.enable()


def test_many_middling_arrays_travel_though_together_they_exceed_a_message(cells: Place) -> None:
    exchange, agent = cells.both()
    cells.meanwhile(serve, agent)
    layers = [np.full(500_000, n, dtype=np.float64) for n in range(20)]
    got = exchange.run("train", layers, timeout=60)
    assert got.ok, got.error
    assert [int(layer[0]) for layer in got.data] == list(range(20))


def test_a_large_body_travels(cells: Place) -> None:
    exchange, agent = cells.both()
    cells.meanwhile(serve, agent)
    words = ["word"] * 4_000_000
    got = exchange.run("train", words, timeout=60)
    assert got.ok, got.error
    assert got.data == words


def test_a_file_travels_from_disk_to_disk(place: Place, tmp_path: Path) -> None:
    exchange, agent = place.both()
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(range(256)) * 50_000)
    small = tmp_path / "small.txt"
    small.write_text("small")
    running = place.meanwhile(exchange.run, "train", timeout=60)
    assert agent.get_task(10)
    submitted = place.meanwhile(agent.submit_result, {"model": SharedFile(model), "notes": SharedFile(small)})
    got = running.result(20)
    assert got.ok, got.error
    assert (got.data["model"].name, got.data["model"].size) == ("model.bin", 12_800_000)
    (tmp_path / "out").mkdir()
    assert got.data["model"].save(tmp_path / "out").read_bytes() == model.read_bytes()
    assert got.data["notes"].save(tmp_path / "other.txt").read_text() == "small"
    assert submitted.result(20)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.bin"]


def _expire(cells: Place) -> None:
    """Wait until an offer of the usual patience, made now, would be gone."""
    from zcell.pipe import cell_message

    with _server(cells).downloads.transaction(receivers=1, idle_timeout=2 * cell_message.DEFAULT_TTL) as offer:
        offer.add_bytes(b"nobody comes")
    assert offer.wait(30) is TransactionStatus.TIMEOUT


def _offered(exchange: TaskExchange) -> int:
    """How many messages of the exchange refer to something that is still on offer."""
    assert isinstance(exchange._pipe, CellPipe)
    return len(exchange._pipe.cell.downloads._transactions)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, where what nobody fetches is on offer for a moment only."""
    monkeypatch.setattr("zcell.pipe.cell_message.DEFAULT_TTL", 0.1)
    place = tmp_path / "words.txt"
    place.write_text("many words")
    return place


def test_a_tasks_file_waits_for_a_job_that_is_busy(cells: Place, words: Path, tmp_path: Path) -> None:
    exchange, agent = cells.both()
    first = cells.meanwhile(exchange.run, "t", timeout=60)
    assert agent.get_task(10)
    second = cells.meanwhile(exchange.run, "t", SharedFile(words), timeout=60)
    eventually(lambda: agent._tasks._items)
    _expire(cells)
    assert agent.submit_result(1)
    task = agent.get_task(10)
    assert task is not None
    _expire(cells)
    assert task.data.save(tmp_path / "copy").read_text() == "many words"
    assert agent.submit_result(2)
    assert [first.result(10).data, second.result(10).data] == [1, 2]
    eventually(lambda: _offered(exchange) == 0)


def test_a_tasks_file_is_withdrawn_with_its_answer(cells: Place, words: Path, tmp_path: Path) -> None:
    exchange, agent = cells.both()
    running = cells.meanwhile(exchange.run, "t", SharedFile(words), timeout=60)
    task = agent.get_task(10)
    assert task is not None
    assert _offered(exchange) == 1
    assert agent.submit_result(1)
    assert running.result(10).ok
    eventually(lambda: _offered(exchange) == 0)
    with pytest.raises(DownloadError, match="gone"):
        task.data.save(tmp_path / "copy")


def test_a_job_can_save_the_file_of_a_task_that_its_caller_gave_up(cells: Place, words: Path, tmp_path: Path) -> None:
    exchange, agent = cells.both()
    abort = Abort()
    running = cells.meanwhile(exchange.run, "t", SharedFile(words), abort=abort)
    task = agent.get_task(10)
    assert task is not None
    eventually(lambda: not exchange._dispatcher._sending)
    abort.trigger("not needed")
    assert running.result(10).cause is Cause.ABORTED
    assert task.data.save(tmp_path / "copy").read_text() == "many words"


def test_a_tasks_file_is_withdrawn_when_its_job_leaves(cells: Place, words: Path) -> None:
    exchange, agent = cells.both()
    running = cells.meanwhile(exchange.run, "t", SharedFile(words), timeout=60)
    assert agent.get_task(10)
    agent.stop()
    assert running.result(10).cause is Cause.PEER_ENDED
    eventually(lambda: _offered(exchange) == 0)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        SharedFile(tmp_path / "nothing")


def test_the_agent_returns_only_when_the_parent_has_what_it_needs(cells: Place) -> None:
    exchange, agent = cells.both()
    running = cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True)
    assert agent.get_task(10)
    submitted = cells.meanwhile(agent.submit_result, np.arange(LARGE))
    got = running.result(20)
    assert got.ok, got.error
    assert isinstance(got.data, LazyRef)
    assert got.data.size == LARGE * 8
    assert not submitted.done()
    np.testing.assert_array_equal(got.data.fetch(), np.arange(LARGE))
    assert submitted.result(10)


def test_the_parent_forwards_what_it_never_holds(cells: Place) -> None:
    server = _server(cells)
    third = Cell("aggregator", parent=server.endpoints[0])
    received: list[Any] = []
    with third:
        third.wait_ready(10)
        third.register("model", "put", lambda request: received.append(request.payload["weights"].sum()))
        exchange, agent = cells.both()
        running = cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True, receivers=["aggregator"])
        task = agent.get_task(10)
        assert task is not None
        assert task.receivers == ("aggregator",)
        submitted = cells.meanwhile(agent.submit_result, {"weights": np.ones(LARGE), "round": 3})
        got = running.result(20)
        assert got.data["round"] == 3
        assert isinstance(got.data["weights"], LazyRef)
        before = server.statistics().data_frames_received
        reply = server.request("aggregator", "model", "put", got.data, timeout=30)
        assert reply.ok, reply.error
        assert submitted.result(10)
        assert received == [LARGE]
        assert server.statistics().data_frames_received == before


def test_a_file_can_be_forwarded_too(cells: Place, tmp_path: Path) -> None:
    server = _server(cells)
    model = tmp_path / "model.bin"
    model.write_bytes(b"m" * 100_000)
    done = threading.Event()

    def put(request: Request) -> None:
        request.payload.save_with(third, tmp_path / "forwarded")
        done.set()

    with Cell("aggregator", parent=server.endpoints[0]) as third:
        third.wait_ready(10)
        third.register("model", "put", put)
        exchange, agent = cells.both()
        running = cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True, receivers=["aggregator"])
        assert agent.get_task(10)
        submitted = cells.meanwhile(agent.submit_result, SharedFile(model))
        got = running.result(20)
        assert server.request("aggregator", "model", "put", got.data, timeout=30).ok
        assert done.wait(10)
        assert submitted.result(10)
    assert (tmp_path / "forwarded").read_bytes() == b"m" * 100_000


def test_only_the_named_receivers_can_fetch(cells: Place) -> None:
    exchange, agent = cells.both()
    running = cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True, receivers=["aggregator"])
    assert agent.get_task(10)
    submitted = cells.meanwhile(agent.submit_result, np.ones(LARGE))
    got = running.result(20)
    with pytest.raises(DownloadError, match="unknown_ref"):
        got.data.fetch()
    agent.stop()
    assert submitted.result(10) is False


def test_receivers_that_never_come_fail_the_result(cells: Place) -> None:
    exchange = cells.exchange()
    agent = cells.agent(streaming_idle_timeout=0.4).start()
    running = cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True)
    assert agent.get_task(10)
    assert agent.submit_result(np.ones(LARGE)) is False
    got = running.result(10)
    with pytest.raises(DownloadError, match="gone"):
        got.data.fetch()


def test_without_an_idle_timeout_a_fixed_wait_ends_as_delivered(cells: Place, caplog: pytest.LogCaptureFixture) -> None:
    exchange = cells.exchange()
    agent = cells.agent(streaming_idle_timeout=None, download_complete_timeout=0.4).start()
    cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True)
    assert agent.get_task(10)
    assert agent.submit_result(np.ones(LARGE)) is True
    assert "not confirmed within 0.4 s" in caplog.text


@pytest.mark.parametrize("how", ["stop", "end", "abort"])
def test_an_end_abandons_a_result_that_is_not_delivered(cells: Place, how: str) -> None:
    exchange, agent = cells.both()
    running = cells.meanwhile(exchange.run, "train", timeout=60, pass_through=True)
    assert agent.get_task(10)
    submitted = cells.meanwhile(agent.submit_result, np.ones(LARGE))
    assert running.result(20).ok
    if how == "stop":
        agent.stop()
    elif how == "end":
        exchange.stop()
    else:
        exchange.abort()
    assert submitted.result(10) is False


def test_a_result_lost_on_the_way_names_the_reason(cells: Place) -> None:
    exchange, agent = cells.both()
    running = cells.meanwhile(exchange.run, "train", timeout=60)
    assert agent.get_task(10)
    handler = agent._handler
    assert handler is not None
    from zcell.agent.task import result_payload
    from zcell.message import ReturnCode
    from zcell.pipe import Message

    class Withdrawing:
        def offered(self, tx_id: str, ref_ids: list[str], receivers: Any, withdraw: Any) -> None:
            withdraw()

        def progress(self, tx_id: str | None, ref_id: str, receiver: str, bytes_done: int, state: str) -> None: ...
        def done(self, tx_id: str, status: str) -> None: ...

    assert agent._current is not None
    payload = result_payload(ReturnCode.OK, np.ones(LARGE))
    message = Message.new_reply("train", payload, req_msg_id=agent._current[1])
    message.offer_watch = Withdrawing()
    assert handler.send_to_peer(message, 10)
    got = running.result(20)
    assert got.cause is Cause.RESULT_LOST
    assert "gone" in got.error


def test_a_message_sent_again_offers_its_objects_once(cells: Place) -> None:
    from zcell.pipe import Message, Mode, Topic

    passive = cells.pairs.end(Mode.PASSIVE, cells.token)
    active = cells.pairs.end(Mode.ACTIVE, cells.token)
    message = Message.new_request("t", np.ones(LARGE))
    assert active.send(message, 10)
    encoded = message.encoded
    assert active.send(message, 10)
    assert message.encoded is encoded
    active.release_send_cache(message)
    assert message.encoded is None
    got = passive.receive(10)
    while got is not None and got.topic == Topic.HEARTBEAT:
        got = passive.receive(10)
    assert got is not None
    assert got.data.sum() == LARGE


def test_an_abort_interrupts_a_fetch(cells: Place) -> None:
    """The agent is told to give up while it still pulls the data of its task."""
    exchange = cells.exchange()
    agent = cells.agent().start()
    stuck = cells.meanwhile(exchange.run, "train", {"x": np.ones(LARGE * 10)}, timeout=60)
    eventually(lambda: exchange.peer_state.value == "LIVE")
    exchange.abort("no more")
    assert stuck.result(10).cause is Cause.ABORTED
    from zcell.agent import AgentAborted

    with pytest.raises(AgentAborted):
        agent.get_task(10)


def test_subclasses_are_made_from_the_environment(cells: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Agent):
        pass

    exchange = cells.exchange(metrics=True)
    env = exchange.job_environment(heartbeat_timeout=30)
    with Own.from_env(env) as agent:
        assert isinstance(agent, Own)
        served = cells.meanwhile(serve, agent)
        got: list[Any] = []
        exchange.on_metric(got.append)
        assert exchange.run("t", 5, timeout=10).data == 5
        assert agent.log("m")
        eventually(lambda: got == ["m"])
        exchange.stop()
        assert served.result(10) == 1
    assert isinstance(exchange, TaskExchange)
