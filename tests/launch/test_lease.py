"""The socket between a launcher and its job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.launch.lease import Lease, Phase, Report, StopOrder


def test_reports_arrive_one_by_one_and_the_end_shows() -> None:
    ours, inherited = Lease.pair()
    theirs = Lease(inherited)
    theirs.send(Report(Phase.COMMAND))
    theirs.send(Report(Phase.ENDED, 3, "link", "x" * 10_000))
    ours.send(StopOrder(2.5))
    first, second = ours.receive(), ours.receive()
    assert first is not None
    assert Report.decode(first) == Report("command")
    assert second is not None
    assert Report.decode(second).exit_code == 3
    assert len(Report.decode(second).error) == 2000
    assert ours.receive() is None
    order = theirs.receive()
    assert order is not None
    assert StopOrder.decode(order) == StopOrder(2.5)
    theirs.close()
    assert ours.receive() == b""
    ours.send(StopOrder(1))  # nobody is there: no error
    ours.close()


@given(st.binary(max_size=200))
def test_anything_else_is_a_value_error(packet: bytes) -> None:
    for decode in (Report.decode, StopOrder.decode):
        try:
            decode(packet)
        except (ValueError, TypeError):
            continue
        pytest.fail(f"{packet!r} was accepted")


@pytest.mark.parametrize("packet", [b'{"phase": 1}', b'{"exit_code": "0"}', b'{"other": 1}', b"[]", b"\xff"])
def test_a_report_with_wrong_fields_is_refused(packet: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        Report.decode(packet)
