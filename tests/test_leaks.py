"""The leak check itself: it must see each kind of leak, and wait for closing that takes a moment."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.eventually import eventually, never
from tests.leaks import LeakCheck


@pytest.fixture
def check() -> LeakCheck:
    return LeakCheck(Path(tempfile.gettempdir()))


def _report(check: LeakCheck) -> str:
    with pytest.raises(AssertionError) as caught:
        check.finish(0.05)
    return str(caught.value)


@pytest.fixture
def idle_thread() -> Iterator[Callable[[], threading.Thread]]:
    end = threading.Event()
    threads: list[threading.Thread] = []

    def start() -> threading.Thread:
        thread = threading.Thread(target=end.wait, args=(30,), name="left-alone")
        threads.append(thread)
        thread.start()
        return thread

    yield start
    end.set()
    for thread in threads:
        thread.join()


def test_nothing_is_reported_when_nothing_is_left(check: LeakCheck) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.bind("tcp://127.0.0.1:0")
    subprocess.run([sys.executable, "-c", ""], check=True)
    check.finish(5)


def test_a_thread_is_named(check: LeakCheck, idle_thread: Callable[[], threading.Thread]) -> None:
    idle_thread()
    assert "left-alone" in _report(check)


def test_a_socket_is_reported_as_what_it_is(check: LeakCheck) -> None:
    with socket.socket():
        assert "socket:[" in _report(check)


def test_a_file_is_reported_with_its_path(check: LeakCheck, tmp_path: Path) -> None:
    with (tmp_path / "open.txt").open("w"):
        assert "open.txt" in _report(check)


def test_a_zmq_context_that_was_not_terminated_is_reported(check: LeakCheck) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    assert "ZMQbg/IO" in _report(check)
    socket.close()
    context.term()


def test_a_child_process_is_reported_with_its_command(check: LeakCheck) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert "input()" in _report(check)
        child.kill()


def test_an_orphan_that_left_the_family_is_reported(check: LeakCheck) -> None:
    """A launched job that survived its launcher is nobody's child any more."""
    orphan = "import os,sys,time; print(os.getpid(), flush=True); os.close(1); os.close(2); time.sleep(30)"
    program = f"import subprocess,sys; subprocess.Popen([sys.executable, '-c', {orphan!r}], start_new_session=True)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=20)
    report = _report(check)
    subprocess.run(["kill", "-9", ran.stdout.strip()], check=True)
    assert "time.sleep(30)" in report


def test_a_temporary_file_is_reported(check: LeakCheck) -> None:
    forgotten = Path(tempfile.gettempdir(), "forgotten.tmp")
    forgotten.touch()
    assert "forgotten.tmp" in _report(check)
    forgotten.unlink()


def test_closing_that_takes_a_moment_is_waited_for(check: LeakCheck) -> None:
    left, right = socket.socketpair()

    def close() -> None:
        left.close()
        right.close()

    timer = threading.Timer(0.1, close)
    timer.start()
    check.finish(5)


def test_eventually_returns_the_value_and_names_what_never_came() -> None:
    values = iter([None, 0, "done"])
    assert eventually(lambda: next(values)) == "done"
    with pytest.raises(AssertionError, match="links: 3"):
        eventually(lambda: False, 0.01, lambda: "links: 3")
    never(lambda: False, 0.01)
    with pytest.raises(AssertionError, match="a reply"):
        never(lambda: True, 0.01, "a reply")
