"""Arguments that make no sense: refused at once, by name, over every pipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.pipe.pairs import Pairs
from zcell.pipe import CellPipe, Message, Mode, Pipe, PipeHandler

NO_SECONDS: list[Any] = [math.nan, "1", True, 1j]


def _message() -> Message:
    return Message.new_request("t")


TIMEOUTS: dict[str, Callable[[Pipe, Any], object]] = {
    "receive": lambda pipe, seconds: pipe.receive(seconds),
    "send": lambda pipe, seconds: pipe.send(_message(), seconds),
    "send_to_peer": lambda pipe, seconds: PipeHandler(pipe).send_to_peer(_message(), seconds),
    "get_next": lambda pipe, seconds: PipeHandler(pipe).get_next(seconds),
    "wait_for_peer": lambda pipe, seconds: PipeHandler(pipe).wait_for_peer(seconds),
}


@pytest.mark.parametrize("seconds", NO_SECONDS, ids=repr)
@pytest.mark.parametrize("call", TIMEOUTS.values(), ids=TIMEOUTS.keys())
def test_a_timeout_that_is_no_number_is_refused(pairs: Pairs, call: Callable[[Pipe, Any], object], seconds: Any) -> None:
    pipe = pairs.end(Mode.PASSIVE)
    with pytest.raises((TypeError, ValueError), match=r"^timeout must be a number of seconds"):
        call(pipe, seconds)


@pytest.mark.parametrize("seconds", [None, 0, -1, -math.inf])
def test_a_timeout_that_is_over_does_not_wait(pairs: Pairs, seconds: Any) -> None:
    assert pairs.end(Mode.PASSIVE).receive(seconds) is None


@pytest.mark.parametrize("seconds", [math.inf, 10**400, 1e300])
def test_a_timeout_without_end_waits_for_what_comes(pairs: Pairs, seconds: Any) -> None:
    active, passive = pairs.both()
    message = Message.new_request("t", 1)
    assert passive.send(message, seconds)
    while (got := active.receive(seconds)) is not None and got.msg_id != message.msg_id:
        continue
    assert got is not None


@pytest.mark.parametrize("call", ["send", "send_to_peer", "wait_for_peer"])
def test_an_abort_that_is_none_is_refused(pairs: Pairs, call: str) -> None:
    pipe = pairs.end(Mode.PASSIVE)
    calls: dict[str, Callable[[], object]] = {
        "send": lambda: pipe.send(_message(), 1.0, True),  # type: ignore[arg-type]
        "send_to_peer": lambda: PipeHandler(pipe).send_to_peer(_message(), 1.0, True),  # type: ignore[arg-type]
        "wait_for_peer": lambda: PipeHandler(pipe).wait_for_peer(1.0, True),  # type: ignore[arg-type]
    }
    with pytest.raises(TypeError, match=r"^abort must be a zcell.Abort or None, not bool"):
        calls[call]()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(
            (name, value)
            for name in ("read_interval", "heartbeat_interval", "heartbeat_timeout", "connect_timeout", "resend_interval")
            for value in (math.nan, "1", True, -1)
        ),
        ("read_interval", 0),
        ("heartbeat_interval", 0),
        ("resend_interval", 0),
        ("max_resends", -1),
        ("max_resends", 1.5),
        ("max_resends", True),
    ],
)
def test_a_handlers_setting_that_makes_no_sense_is_named(pairs: Pairs, setting: str, value: Any) -> None:
    pipe = pairs.build(Mode.PASSIVE, "settings")
    with pipe, pytest.raises((TypeError, ValueError), match=f"^{setting} must be "):
        PipeHandler(pipe, **{setting: value})


@pytest.mark.parametrize("value", [math.nan, "1", -1])
def test_a_connect_timeout_that_makes_no_sense_is_named(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^connect_timeout must be "):
        CellPipe(Mode.ACTIVE, "s", "t", parent="tcp://127.0.0.1:1", connect_timeout=value)
