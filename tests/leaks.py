"""The leak check around every test. Invariant: what a test opened is closed when it ends; the report names what is not.

Compared before and after: Python threads (by name), libzmq's own threads (a context that was not terminated), file descriptors
with what they point to, child processes, orphans that left the family but carry this run's mark in their environment, buffers
that libzmq still holds for a zero-copy send, and files in the temporary directory. Closing may be asynchronous, so the check
polls until nothing is left or the deadline passes.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
import zmq
from zmq.utils.garbage import gc as zmq_garbage

from tests.eventually import eventually

GRACE = 5.0
"""Seconds that asynchronous closing may take."""
MARK = "ZCELL_TEST_RUN"
"""Environment variable inherited by every process that a test starts."""
_PROC = Path("/proc/self")


def mark_environment() -> None:
    """Give this process a mark of its own (each xdist worker has one), which descendants inherit."""
    os.environ[MARK] = f"{os.getpid()}-{uuid.uuid4().hex}"


def start_process_wide_threads() -> None:
    """Start what exists once per process by design, so that it belongs to every baseline.

    pyzmq starts one garbage thread with one context at the first zero-copy send and keeps it until exit: it is pyzmq's, there
    is no public way to end it, and it does not grow.
    """
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind("inproc://warm")
        b.connect("inproc://warm")
        b.copy_threshold = 0
        b.send(b"x" * 70_000, copy=False)
        a.recv()
    eventually(lambda: not zmq_garbage.refs, what="pyzmq lets go of a buffer that was sent")


@dataclass(frozen=True)
class Snapshot:
    """What this process holds at one moment. Keys identify, values tell a reader what it is."""

    threads: dict[int, str]
    zmq_threads: dict[int, str]
    descriptors: dict[tuple[int, str], str]
    processes: dict[tuple[int, float], str]
    buffers: dict[int, str]
    files: dict[str, str]

    @classmethod
    def take(cls, directories: tuple[Path, ...]) -> Snapshot:
        return cls(_threads(), _zmq_threads(), _descriptors(), _processes(), _buffers(), _files(directories))

    def leaked_since(self, before: Snapshot) -> list[str]:
        """One line for each thing that is here and was not in `before`."""
        lines = []
        for what, now, then in (
            ("thread", self.threads, before.threads),
            ("libzmq thread (a context was not terminated)", self.zmq_threads, before.zmq_threads),
            ("file descriptor", self.descriptors, before.descriptors),
            ("process", self.processes, before.processes),
            ("buffer held by libzmq", self.buffers, before.buffers),
            ("temporary file", self.files, before.files),
        ):
            lines += [f"{what}: {now[key]}" for key in now if key not in then]  # type: ignore[index]
        return lines


def _threads() -> dict[int, str]:
    return {id(t): f"{t.name} ({'daemon' if t.daemon else 'not daemon'})" for t in threading.enumerate()}


def _zmq_threads() -> dict[int, str]:
    found = {}
    for task in (_PROC / "task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:  # it ended meanwhile
            continue
        if name.startswith("ZMQ"):
            found[int(task.name)] = name
    return found


def _descriptors() -> dict[tuple[int, str], str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208  the fast way: this runs twice per test
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
        except OSError:  # the descriptor that listed the directory
            continue
        found[int(number), target] = f"{number} -> {target}"
    return found


class _Spawns:
    """Whether this process has started another since the last time that none was found: looking through /proc takes long."""

    EVENTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
    seen = True

    @classmethod
    def audit(cls, event: str, _: object) -> None:
        if event in cls.EVENTS:
            cls.seen = True


sys.addaudithook(_Spawns.audit)


def _processes() -> dict[tuple[int, float], str]:
    if not _Spawns.seen:
        return {}
    found = _find_processes()
    _Spawns.seen = bool(found)
    return found


def _find_processes() -> dict[tuple[int, float], str]:
    me = psutil.Process()
    mark = f"{MARK}={os.environ.get(MARK, '-')}".encode()
    family = {p.pid: p for p in me.children(recursive=True)}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit() or int(name) in family or int(name) == me.pid:
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
            if mark in environment.split(b"\0"):
                family[int(name)] = psutil.Process(int(name))
        except (OSError, psutil.Error):  # gone meanwhile, or somebody else's
            continue
    found = {}
    for process in family.values():
        try:
            text = f"{process.pid} {process.status()} {' '.join(process.cmdline())[:200] or process.name()}"
            found[process.pid, process.create_time()] = text
        except psutil.Error:
            continue
    return found


def _buffers() -> dict[int, str]:
    return {key: f"{type(entry.obj).__name__} at {key:#x}" for key, entry in list(zmq_garbage.refs.items())}


def _files(directories: tuple[Path, ...]) -> dict[str, str]:
    return {str(p): str(p) for directory in directories if directory.is_dir() for p in directory.iterdir()}


class LeakCheck:
    """Take a snapshot now; `finish` fails when anything of it has grown and stays grown for `GRACE` seconds."""

    def __init__(self, *directories: Path) -> None:
        self._directories = directories
        self._before = Snapshot.take(directories)

    def leaks(self) -> list[str]:
        return Snapshot.take(self._directories).leaked_since(self._before)

    def finish(self, grace: float = GRACE) -> None:
        """Raise `AssertionError` listing what is left. Returns at once when nothing is."""
        if not self.leaks():
            return
        gc.collect()
        try:
            eventually(lambda: not self.leaks(), grace)
        except AssertionError:
            left = self.leaks()
            if left:
                raise AssertionError(f"left behind {grace} s after the test:\n  " + "\n  ".join(left)) from None
