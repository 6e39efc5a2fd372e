"""What nodes and parents say: everything that arrives is checked."""

from __future__ import annotations

from typing import Any

import pytest

from zcell.launch.remote.course import Outcome
from zcell.launch.remote.messages import Greeting, LastWords, OutputBatch, Work, node_name, renewal, stop_order
from zcell.launch.spec import JobReturnCode

WORK = Work("j", ["true"], "", {"A": "b"}, {"ZCELL_JOB_ID": "j"}, 10.0, 30.0)
WORDS = LastWords("i", Outcome(JobReturnCode.ABORTED, "why", 143, "link", "/place"), {"command": {"files": 3}, "ended": None})


def test_what_is_said_is_understood() -> None:
    assert Work.decode(WORK.encode()) == WORK
    assert LastWords.decode(WORDS.encode()) == WORDS
    greeting = Greeting("i", 2, "node-1")
    assert Greeting.decode(greeting.encode()) == greeting
    batch = OutputBatch("i", 7, [("stdout", b"x\n")])
    assert OutputBatch.decode(batch.encode()) == batch
    assert renewal({"instance": "i", "phase": "command"}) == ("i", "command")
    assert stop_order({"grace": None}) is None
    assert stop_order({"grace": 2}) == 2.0


@pytest.mark.parametrize(
    ("decode", "payload"),
    [
        (Work.decode, None),
        (Work.decode, {}),
        (Work.decode, WORK.encode() | {"env": {"A": 1}}),
        (Work.decode, WORK.encode() | {"command": "true"}),
        (Work.decode, WORK.encode() | {"grace": -1}),
        (Work.decode, WORK.encode() | {"more": 1}),
        (Greeting.decode, {"instance": "i", "run": True, "host": "h"}),
        (Greeting.decode, {"instance": 1, "run": 0, "host": "h"}),
        (OutputBatch.decode, {"instance": "i", "number": 0, "lines": [("stdin", b"")]}),
        (OutputBatch.decode, {"instance": "i", "number": 0, "lines": [("stdout", "text")]}),
        (OutputBatch.decode, {"instance": "i", "number": 0, "lines": [("stdout",)]}),
        (OutputBatch.decode, {"instance": "i", "number": 0, "lines": [("stdout", b"")] * 5000}),
        (LastWords.decode, WORDS.encode() | {"files": []}),
        (LastWords.decode, WORDS.encode() | {"outcome": {"code": 127, "reason": "", "exit_code": None, "failure": ""}}),
        (LastWords.decode, WORDS.encode() | {"outcome": {"code": 55, "reason": "", "exit_code": None, "failure": ""}}),
        (LastWords.decode, WORDS.encode() | {"outcome": {"code": 0, "reason": "", "exit_code": "0", "failure": ""}}),
        (renewal, {"instance": "i"}),
        (stop_order, {"grace": -1}),
        (stop_order, {"grace": True}),
        (stop_order, 3),
    ],
)
def test_anything_else_is_refused(decode: Any, payload: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(payload)


def test_a_long_job_id_still_makes_a_name() -> None:
    assert node_name("site-1", "job-7") == "site-1.launch_job-7"
    names = {node_name("server", "x" * 62 + last) for last in "ab"}
    assert len(names) == 2
    assert all(len(name.split(".")[1]) <= 63 for name in names)
