"""Producers and consumers: objects that are not bytes, and consumers of bytes."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.download.conftest import CHUNK, Pair
from tests.eventually import eventually
from zcell.abort import Abort
from zcell.download import ProduceRC, TransactionStatus
from zcell.errors import DownloadError


class Layers:
    """Produces the entries of a dict, one a step; its place is in the state."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def produce(self, ref_id: str, obj: Any, state: Any, requester: str) -> tuple[ProduceRC, Any, Any]:
        self.states.append(state)
        at = (state or {"at": 0})["at"]
        names = sorted(obj)
        if at == len(names):
            return ProduceRC.EOF, None, state
        return ProduceRC.OK, {"name": names[at], "value": obj[names[at]]}, {"at": at + 1}


class RandomAccess:
    """Produces element n at step n, slowly at first, and counts how many are asked for at once."""

    random_access = True

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.together = threading.Barrier(3, timeout=5)

    def produce(self, ref_id: str, obj: Any, state: Any, requester: str) -> tuple[ProduceRC, Any, Any]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        if state["step"] < 3:
            self.together.wait()
        with self.lock:
            self.now -= 1
        step = state["step"]
        return (ProduceRC.OK, obj[step], None) if step < len(obj) else (ProduceRC.EOF, None, None)


class Collector:
    """Collects what it is given, and how it ended."""

    def __init__(self) -> None:
        self.data: list[Any] = []
        self.states: list[Any] = []
        self.ended = ""

    def consume(self, ref_id: str, state: dict[Any, Any], data: Any) -> dict[Any, Any]:
        self.states.append(dict(state))
        self.data.append(data)
        return {"seen": len(self.data)}

    def download_completed(self, ref_id: str) -> None:
        self.ended = "completed"

    def download_failed(self, ref_id: str, reason: str) -> None:
        self.ended = reason


def _ended(consumer: Collector, reason: str) -> bool:
    return consumer.ended == reason


MODEL = {f"layer-{i}": np.arange(10 * i) for i in range(6)}


def test_a_producer_gets_back_the_state_it_returned_and_a_consumer_too(pair: Pair) -> None:
    producer, consumer = Layers(), Collector()
    with pair.owner.downloads.transaction(receivers=1) as tx:
        ref = tx.add(MODEL, producer)
    pair.receiver.downloads.fetch("server", ref, consumer, idle_timeout=10)
    assert consumer.ended == "completed"
    assert [step["name"] for step in consumer.data] == sorted(MODEL)
    assert all(np.array_equal(step["value"], MODEL[step["name"]]) for step in consumer.data)
    assert producer.states == [None, *({"at": i} for i in range(1, 7))]
    assert consumer.states == [{}, *({"seen": i} for i in range(1, 6))]
    assert tx.wait(5) is TransactionStatus.FINISHED


def test_a_random_access_producer_works_on_several_steps_at_once(pair: Pair) -> None:
    producer, consumer = RandomAccess(), Collector()
    ref = pair.owner.downloads.transaction().add(list(range(20)), producer)
    pair.receiver.downloads.fetch("server", ref, consumer, idle_timeout=10)
    assert consumer.data == list(range(20)), "in order all the same"
    assert 3 <= producer.most <= 4


def test_large_steps_travel_by_reference(tcp_pair: Pair) -> None:
    parts = [bytes([i]) * (9 << 20) for i in range(2)]
    consumer = Collector()
    ref = tcp_pair.owner.downloads.transaction().add({"a": parts[0], "b": parts[1]}, Layers())
    tcp_pair.receiver.downloads.fetch("server", ref, consumer, idle_timeout=20)
    assert [step["value"] for step in consumer.data] == parts


def test_a_producer_that_fails_is_named(tcp_pair: Pair) -> None:
    class Failing:
        def produce(self, ref_id: str, obj: Any, state: Any, requester: str) -> tuple[ProduceRC, Any, Any]:
            if obj == "raise":
                raise RuntimeError("no such layer")
            return ProduceRC.ERROR, "the model is empty", None

    tx = tcp_pair.owner.downloads.transaction()
    for obj, text in (("raise", "no such layer"), ("error", "the model is empty")):
        consumer = Collector()
        with pytest.raises(DownloadError, match=text) as failure:
            tcp_pair.receiver.downloads.fetch("server", tx.add(obj, Failing()), consumer)
        assert failure.value.reason == "source_failed"
        eventually(partial(_ended, consumer, "source_failed"))


@pytest.mark.parametrize("kind", ["steps", "bytes"])
@pytest.mark.parametrize("fault", ["raise", "no dict", "completed"])
def test_a_consumer_that_raises_or_returns_no_dict_fails_with_sink_failed(tcp_pair: Pair, kind: str, fault: str) -> None:
    class Broken(Collector):
        def consume(self, ref_id: str, state: dict[Any, Any], data: Any) -> dict[Any, Any]:
            if fault == "raise":
                raise RuntimeError("no space")
            return None if fault == "no dict" else state  # type: ignore[return-value]

        def download_completed(self, ref_id: str) -> None:
            raise RuntimeError("no space")

    tx = tcp_pair.owner.downloads.transaction()
    ref = tx.add(MODEL, Layers()) if kind == "steps" else tx.add_bytes(b"x" * 5 * CHUNK)
    consumer = Broken()
    with pytest.raises(DownloadError, match=r"no space|as a dict") as failure:
        tcp_pair.receiver.downloads.fetch("server", ref, consumer)
    assert failure.value.reason == "sink_failed"
    eventually(lambda: consumer.ended == "sink_failed")
    assert tx.statistics().confirmed == frozenset()


def test_a_consumer_of_bytes_gets_the_chunks_in_order(pair: Pair) -> None:
    data = bytes(range(256)) * 1024
    consumer = Collector()
    ref = pair.owner.downloads.transaction().add_bytes(data)
    pair.receiver.downloads.fetch("server", ref, consumer, idle_timeout=10)
    assert b"".join(consumer.data) == data
    assert len(consumer.data) == len(data) // CHUNK
    assert consumer.ended == "completed"


def test_a_slow_consumer_holds_the_sender_back(tcp_pair: Pair) -> None:
    go_on = threading.Event()

    class Slow(Collector):
        def consume(self, ref_id: str, state: dict[Any, Any], data: Any) -> dict[Any, Any]:
            assert go_on.wait(10)
            return super().consume(ref_id, state, data)

    size = 200 << 20
    tx = tcp_pair.owner.downloads.transaction()
    ref = tx.add_stream(b"x" * (1 << 20) for _ in range(size >> 20))
    consumer = Slow()
    future = tcp_pair.receiver.downloads.fetch_future("server", ref, consumer, idle_timeout=20)
    eventually(lambda: tx.statistics().chunks_loaded * CHUNK >= 4 << 20)
    before = -1
    while before != (before := tx.statistics().chunks_loaded):
        go_on.wait(0.1)
    assert before * CHUNK <= 10 << 20, "no more than the first window"
    go_on.set()
    future.result(60)
    assert sum(map(len, consumer.data)) == size


@pytest.mark.parametrize("into", ["file", "bytes"])
def test_steps_of_bytes_are_joined(pair: Pair, tmp_path: Path, into: str) -> None:
    class Pieces:
        def produce(self, ref_id: str, obj: Any, state: Any, requester: str) -> tuple[ProduceRC, Any, Any]:
            at = (state or {}).get("at", 0)
            return (ProduceRC.OK, obj[at], {"at": at + 1}) if at < len(obj) else (ProduceRC.EOF, None, None)

    pieces = [b"one", b"", b"three" * 100_000]
    tx = pair.owner.downloads.transaction()
    ref = tx.add(pieces, Pieces())
    if into == "file":
        path = pair.receiver.downloads.fetch_file("server", ref, tmp_path / "joined", idle_timeout=10)
        assert path.read_bytes() == b"".join(pieces)
        assert [p.name for p in tmp_path.iterdir()] == ["joined"]
    else:
        assert pair.receiver.downloads.fetch_bytes("server", ref, idle_timeout=10) == b"".join(pieces)
    with pytest.raises(DownloadError, match="consumer") as failure:
        pair.receiver.downloads.fetch_file("server", tx.add([{"no": "bytes"}], Pieces()), tmp_path / "wrong")
    assert failure.value.reason == "sink_failed"
    assert not (tmp_path / "wrong").exists()


def test_steps_end_by_abort_deadline_and_idleness(tcp_pair: Pair) -> None:
    hold = threading.Event()

    class Stuck:
        def produce(self, ref_id: str, obj: Any, state: Any, requester: str) -> tuple[ProduceRC, Any, Any]:
            hold.wait(20)
            return ProduceRC.EOF, None, None

    ref = tcp_pair.owner.downloads.transaction().add({}, Stuck())
    downloads = tcp_pair.receiver.downloads
    try:
        cases: list[tuple[dict[str, Any], str]] = [({"idle_timeout": 0.3}, "idle"), ({"deadline": 0.3}, "deadline")]
        for options, reason in cases:
            consumer = Collector()
            with pytest.raises(DownloadError) as failure:
                downloads.fetch("server", ref, consumer, **options)
            assert failure.value.reason == reason
            eventually(partial(_ended, consumer, reason))
        abort = Abort()
        future = downloads.fetch_future("server", ref, Collector(), abort=abort)
        eventually(lambda: downloads._running)
        abort.trigger("enough")
        error = future.exception(0.5)
        assert isinstance(error, DownloadError)
        assert error.reason == "aborted"
    finally:
        hold.set()


def test_a_ref_of_steps_that_ended_says_gone(tcp_pair: Pair) -> None:
    tx = tcp_pair.owner.downloads.transaction()
    ref = tx.add(MODEL, Layers())
    tx.delete()
    with pytest.raises(DownloadError) as failure:
        tcp_pair.receiver.downloads.fetch("server", ref, Collector())
    assert failure.value.reason == "gone"
