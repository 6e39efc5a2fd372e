"""The node's side: ``python -m zcell.launch.remote.node``. Invariant: its job ends when its parent is gone for a lease, or says so.

It runs where the engine has put it, alone: reads its credentials from a file of mode 0600, asks its parent over the cell tree for
the work, runs it with the process launcher, and tells its parent what it writes and how it ends. SIGTERM ends the job with grace.
Exits with the command's code; 120 to 124 say that there was no command to run: see `Refusal`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from zcell.cell import Cell
from zcell.errors import LinkError, LinkRefusedError, ZcellError
from zcell.fqcn import FQCN
from zcell.launch.credentials import Credentials, read_credentials
from zcell.launch.remote.messages import CHANNEL, HELLO, Greeting, Work
from zcell.launch.remote.refusal import Refusal
from zcell.message import Reply, ReturnCode

log = logging.getLogger("zcell.node")

CONNECT_TIMEOUT = 30.0
STOPPED = 128 + signal.SIGTERM
_LOOK = 0.1
_KNOCK = 1.0


class RefusedError(Exception):
    """There is no command to run; `code` says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Listener:
    """Whether anybody listens at the parent's address, which is all that a node can know of it before it has credentials."""

    def __init__(self, url: str, lease: float) -> None:
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        self._place = (host.strip("[]"), int(port)) if url.startswith("tcp://") else None
        self._lease = lease
        self._last = time.monotonic()
        self._next = self._last + _KNOCK  # most credentials are there by then

    def check(self) -> None:
        """Raise `RefusedError` when nobody has listened for a lease; looks once a second at most."""
        now = time.monotonic()
        if self._place is None or now < self._next:
            return
        self._next = now + min(_KNOCK, self._lease / 4)
        try:
            socket.create_connection(self._place, _KNOCK).close()
        except OSError as error:
            if now - self._last >= self._lease:
                text = f"nobody listens at the parent's address any more, before the credentials came: {error}"
                raise RefusedError(Refusal.NO_LINK, text) from error
        else:
            self._last = now


def await_credentials(path: Path, limit: float, signals: Signals, listener: Listener, *, group: bool = False) -> Credentials:
    """Read the credentials, which may be on their way, waiting `limit` seconds at most. Raises `RefusedError`."""
    end = time.monotonic() + limit
    while True:
        try:
            return read_credentials(path, group=group)
        except (FileNotFoundError, ValueError) as error:  # not there yet, or not whole yet
            if time.monotonic() >= end:
                raise RefusedError(Refusal.NO_CREDENTIALS, f"no credentials after {limit:g} s: {error}") from error
        except OSError as error:
            raise RefusedError(Refusal.NO_CREDENTIALS, str(error)) from error
        _pause(signals, "its credentials had not come yet")
        listener.check()


def _pause(signals: Signals, why: str) -> None:
    if signals.get(_LOOK):
        raise RefusedError(STOPPED, f"it was stopped before its command could start: {why}")


def _await_link(cell: Cell, signals: Signals) -> None:
    end = time.monotonic() + CONNECT_TIMEOUT
    while True:
        try:
            return cell.wait_ready(1.0)
        except LinkError as error:
            if isinstance(error, LinkRefusedError) or time.monotonic() >= end:
                raise RefusedError(Refusal.NO_LINK, str(error)) from error
            why = str(error)
        _pause(signals, why)


def ask_for_work(cell: Cell, run: int, signals: Signals) -> Work:
    """Introduce this node to its parent. Raises `RefusedError`."""
    greeting = Greeting(cell.instance, run, os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    end = time.monotonic() + CONNECT_TIMEOUT
    while True:
        reply = cell.request(FQCN.parent(cell.fqcn), CHANNEL, HELLO, greeting.encode(), timeout=5.0, optional=True)
        if reply.ok:
            return _work(reply)
        if reply.rc not in (ReturnCode.TIMEOUT, ReturnCode.COMM_ERROR, ReturnCode.TARGET_UNREACHABLE):
            raise RefusedError(Refusal.NOT_WANTED, f"the parent does not want this job: {reply.error or reply.rc}")
        if time.monotonic() >= end:
            raise RefusedError(Refusal.NO_LINK, f"the parent does not answer: {reply.error or reply.rc}")
        _pause(signals, f"the parent had not answered: {reply.error or reply.rc}")


def _work(reply: Reply) -> Work:
    try:
        return Work.decode(reply.payload)
    except ValueError as error:
        raise RefusedError(Refusal.NOT_WANTED, f"the parent sent work that cannot be read: {error}") from error


class Signals:
    """SIGTERM, SIGINT and SIGHUP as entries of a queue: a handler only puts, which is safe in one."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[str] = SimpleQueue()

    def hear(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._queue.put("stop"))

    def put(self, word: str) -> None:
        self._queue.put(word)

    def get(self, timeout: float) -> str:
        """The next word, ``""`` after `timeout` seconds."""
        try:
            return self._queue.get(timeout=timeout)
        except Empty:
            return ""


def run_node(options: argparse.Namespace, signals: Signals) -> int:
    """One job from its credentials to its end; the exit code. Raises `RefusedError` when there was nothing to run."""
    from zcell.launch.remote.stint import Stint

    try:
        listener = Listener(options.parent, options.lease)
        credentials = await_credentials(options.credentials, options.wait, signals, listener, group=options.group_readable)
    finally:
        _clear_up(options)
    cell = Cell(options.name, parent=options.parent, secret=credentials.link_secret, insecure=options.insecure)
    with cell:
        _await_link(cell, signals)
        work = ask_for_work(cell, options.run, signals)
        return Stint(cell, work, credentials, signals, directory=options.directory, echo=options.echo).run()


def _clear_up(options: argparse.Namespace) -> None:
    with contextlib.suppress(OSError):  # what cannot be removed is no reason against running the job
        if options.consume:
            options.credentials.unlink(missing_ok=True)
        if options.tidy:
            options.credentials.parent.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the node's side."""
    parser = argparse.ArgumentParser(prog="python -m zcell.launch.remote.node", description=__doc__)
    parser.add_argument("--parent", required=True, help="address of the parent")
    parser.add_argument("--name", required=True, help="name of this node's cell")
    parser.add_argument("--credentials", required=True, type=Path, help="file of mode 0600, which may still be on its way")
    parser.add_argument("--group-readable", action="store_true", help="that file may be read by its group too")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for that file")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds to wait for it when nobody listens at --parent")
    parser.add_argument("--consume", action="store_true", help="remove that file once it is read")
    parser.add_argument("--tidy", action="store_true", help="remove the directory it was in, when that is empty then")
    parser.add_argument("--directory", type=Path, help="where the job's private directory is made")
    parser.add_argument(
        "--echo", action="store_true", help="write the job's output to this process's own stdout and stderr too"
    )
    parser.add_argument("--run", type=int, default=0, help="how often the engine has started this job again")
    parser.add_argument("--insecure", action="store_true", help="the parent's address is beyond this machine")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="zcell node: %(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("zcell.security").setLevel(logging.ERROR)  # the parent has warned already, of the same address
    signals = Signals()
    signals.hear()
    try:
        return run_node(options, signals)
    except RefusedError as error:
        print(f"zcell node: {error}", file=sys.stderr)  # noqa: T201  the node's own stderr
        return int(error.code)
    except (ZcellError, OSError, ValueError) as error:
        print(f"zcell node: {error}", file=sys.stderr)  # noqa: T201
        return int(Refusal.NO_LINK)


if __name__ == "__main__":
    sys.exit(main())
