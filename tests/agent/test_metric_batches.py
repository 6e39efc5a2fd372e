"""How records become messages: the first at once, what follows in batches, everything in order."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

from tests.eventually import eventually
from zcell import codec
from zcell.agent.metrics import _BATCH_RECORDS, _SPACING, MetricSender
from zcell.pipe import Message, PipeHandler


class Handler:
    """Takes every batch at once."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.taken = threading.Event()
        self.is_over = False

    def send_to_peer(self, message: Message, *_: Any) -> bool:
        self.batches.append([codec.decode(body) for body in message.data])
        self.taken.set()
        return True

    @property
    def records(self) -> list[Any]:
        return [record for batch in self.batches for record in batch]


def test_the_first_record_waits_for_nobody_and_the_next_ones_for_company() -> None:
    handler = Handler()
    sender = MetricSender(cast(PipeHandler, handler), 1)
    try:
        began = time.monotonic()
        assert sender.log(0, 1)
        assert handler.taken.wait(5)
        for number in range(1, 3000):
            assert sender.log(number, 1)
        assert sender.flush(5)
        took = time.monotonic() - began
        assert handler.records == list(range(3000))
        assert handler.batches[0] == [0]
        assert len(handler.batches) <= 2 + took / _SPACING + 3000 / _BATCH_RECORDS
    finally:
        sender.close()


def test_a_full_batch_waits_for_no_more() -> None:
    handler = Handler()
    sender = MetricSender(cast(PipeHandler, handler), 1)
    try:
        big = b"x" * (1 << 20)
        for _ in range(20):
            assert sender.log(big, 5)
        eventually(lambda: len(handler.records) == 20)
        assert max(map(len, handler.batches)) <= 1
    finally:
        sender.close()
