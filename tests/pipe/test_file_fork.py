"""What a forked child does with its parent process's end of a FilePipe: nothing, and it is told why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from zcell.pipe import FilePipe, Message, Mode, PipeHandler


def _fork(work: Callable[[], bool]) -> int:
    """The id of a forked child; it ends with code 0 when `work` returned True in it, 2 when it raised."""
    child = os.fork()
    if child:
        return child
    code = 2
    try:
        code = 0 if work() else 1
    finally:
        os._exit(code)


def _is_refused(use: Callable[[], object]) -> bool:
    try:
        use()
    except BrokenPipeError as e:
        return f"belongs to process {os.getppid()}" in str(e)
    return False


def _all_is_refused(pipe: FilePipe, handler: PipeHandler) -> bool:
    handler.leave("done")
    handler.stop()
    pipe.close()
    uses = (pipe.receive, pipe.clear, lambda: pipe.send(Message.new_request("t", "of the child"), 1.0))
    return all(_is_refused(use) for use in uses)


def _sends(pipe: FilePipe) -> bool:
    pipe.open("task")
    taken = pipe.send(Message.new_request("t", "of the child"), 10.0)
    pipe.close()
    return taken


def test_a_forked_child_can_neither_close_nor_use_an_end(tmp_path: Path) -> None:
    root = tmp_path / "pipe"
    with FilePipe(Mode.PASSIVE, root) as passive, FilePipe(Mode.ACTIVE, root) as active:
        passive.open("task")
        active.open("task")
        handler = PipeHandler(passive)
        handler.start()
        assert active.send(Message.new_request("t", "here"), 10.0)
        first = handler.get_next(10.0)
        assert first is not None
        child = _fork(lambda: _all_is_refused(passive, handler))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert active.send(Message.new_request("t", "alive"), 10.0)
        message = handler.get_next(10.0)
        assert message is not None
        assert message.data == "alive"
        handler.stop()
    assert not root.exists()


def test_an_end_made_before_a_fork_and_opened_after_it_is_the_childs(tmp_path: Path) -> None:
    root = tmp_path / "pipe"
    with FilePipe(Mode.PASSIVE, root) as passive:
        passive.open("task")
        active = FilePipe(Mode.ACTIVE, root)
        child = _fork(lambda: _sends(active))
        received = None
        while received is None or received.topic != "t":
            received = passive.receive(10.0)
            assert received is not None
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        active.close()
    assert not root.exists()
