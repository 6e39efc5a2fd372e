"""What an exchange over a directory says when the directory is no longer its own."""

from __future__ import annotations

from pathlib import Path

from zcell.agent import Cause, TaskExchange
from zcell.pipe import FilePipe, Mode


def test_an_exchange_whose_place_another_one_took_says_so(tmp_path: Path) -> None:
    with TaskExchange(FilePipe(Mode.PASSIVE, tmp_path / "pipe")) as first:
        with TaskExchange(FilePipe(Mode.PASSIVE, tmp_path / "pipe")):
            got = first.run("t", timeout=30)
        assert got.cause is Cause.SEND_FAILED
        assert got.error.endswith("cannot be used: another end with the same mode took over")
