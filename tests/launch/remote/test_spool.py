"""Output on its way: in order, on disk, given back once it has arrived."""

from __future__ import annotations

import threading

from zcell.launch.remote.spool import OutputSpool


def test_lines_come_out_in_order_and_stay_until_confirmed() -> None:
    spool = OutputSpool()
    spool.append("stdout", b"one\n")
    spool.append("stderr", b"two")
    spool.append("stdout", b"")
    expected = [("stdout", b"one\n"), ("stderr", b"two"), ("stdout", b"")]
    assert spool.next_batch(1000, 10) == expected
    assert spool.next_batch(1000, 10) == expected
    assert spool.waiting_bytes > 0
    spool.confirm()
    assert spool.waiting_bytes == 0
    spool.end()
    assert spool.next_batch(1000, 10) is None
    spool.close()


def test_batches_are_bounded_in_lines_and_bytes() -> None:
    spool = OutputSpool()
    for number in range(10):
        spool.append("stdout", b"%d" % number)
    spool.end()
    seen = []
    while batch := spool.next_batch(1000, 3):
        assert len(batch) <= 3
        seen += batch
        spool.confirm()
    assert [line for _, line in seen] == [b"%d" % number for number in range(10)]
    spool.append("stdout", b"too late")
    assert spool.next_batch(1000, 3) is None
    spool.close()


def test_a_reader_waits_for_the_next_line() -> None:
    spool = OutputSpool()
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.append(spool.next_batch(100, 1)))
    reader.start()
    spool.append("stderr", b"x")
    reader.join(5)
    assert got == [[("stderr", b"x")]]
    spool.close()
