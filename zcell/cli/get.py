"""``zcell get``. Invariant: the final name appears only with the whole, verified content; what an interruption leaves is continued."""

from __future__ import annotations

import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.cli.exits import DONE, TRANSFER, USAGE, CommandError
from zcell.cli.interrupt import Interrupts
from zcell.cli.screen import Progress, Screen, files_text, seconds_text, size_text
from zcell.cli.share import (
    CHANNEL,
    CONFIRM,
    DESCRIBE,
    DIRECTORY,
    FAILED,
    FILE,
    SENDER,
    check_address,
    checked_secret,
    name_fault,
)
from zcell.digest import file_digest
from zcell.download.staging import FileSink
from zcell.errors import CellClosedError, DownloadError, LinkError, LinkRefusedError, WorkspaceError, ZcellError
from zcell.limits import MIB

if TYPE_CHECKING:
    from zcell.abort import Abort
    from zcell.cell import Cell
    from zcell.download.progress import ProgressEvent
    from zcell.workspace.meter import WorkspaceProgress

CONNECT_TIMEOUT = 15.0
ADVICE = "start `zcell send` again"
_MAX_TIME_NS = 1 << 62


@dataclass(frozen=True)
class Fetched:
    """What arrived, for the summary."""

    path: Path
    files: int
    fetched_bytes: int
    """Bytes of files that had to travel."""
    digest: str
    continued: bool = False
    """Some of it was here from an earlier try, so that its size over the time is no rate."""


class Drawing:
    """Draws, or with ``--json`` tells, how far the transfer is."""

    def __init__(self, screen: Screen, draw: Progress) -> None:
        self._screen = screen
        self._draw = draw

    def of_file(self, event: ProgressEvent) -> None:
        self._tell(event.bytes_done, event.bytes_total, event.state.value)

    def of_tree(self, event: WorkspaceProgress) -> None:
        self._tell(event.bytes_done, event.bytes_total or None, event.state)

    def _tell(self, done_bytes: int, total_bytes: int | None, state: str) -> None:
        self._draw(done_bytes, total_bytes)
        if self._screen.json:
            self._screen.result("progress", bytes=done_bytes, total_bytes=total_bytes, state=state)


def get_ref(address: str, ref: str, to: Path, *, insecure: bool, secret_file: Path | None, json: bool) -> int:
    """Fetch `ref` from the sender at `address` into the directory `to`; the exit code."""
    from zcell.cell import Cell

    screen = Screen(json=json)
    check_address(address, "ADDRESS", insecure)
    secret = checked_secret(insecure, secret_file)
    if to.exists() and not to.is_dir():
        raise CommandError(USAGE, f"--to {to} is not a directory")
    started = False
    cell = Cell(f"get-{secrets.token_hex(8)}", parent=address, secret=secret, insecure=insecure)
    with Interrupts() as interrupts, cell, screen.progress("fetching") as draw:
        leave = interrupts.abort.add_callback(lambda: cell.stop(1.0))  # ends the wait for a link at once
        try:
            _connect(cell, address)
            interrupts.abort.remove_callback(leave)
            description = _describe(cell, ref, interrupts.abort)
            if description["kind"] == FILE:
                _refuse_directory(to / description["name"])
            to.mkdir(parents=True, exist_ok=True)
            started = True
            start = time.monotonic()
            fetch = _fetch_directory if description["kind"] == DIRECTORY else _fetch_file
            fetched = fetch(cell, ref, description, to, Drawing(screen, draw), interrupts.abort)
            seconds = time.monotonic() - start
        except (ZcellError, OSError) as error:
            if not interrupts.interrupted:
                if isinstance(error, DownloadError) and error.reason == "source_failed":
                    raise CommandError(TRANSFER, f"{error}; {ADVICE}") from error
                raise
            if not isinstance(error, CellClosedError):
                screen.note(str(error))
            kept = "what has been verified is kept; the same command continues from there" if started else "nothing was fetched"
            screen.note(f"interrupted; {kept}")
            return interrupts.exit_code
    _summarise(screen, fetched, seconds)
    return DONE


def _connect(cell: Cell, address: str) -> None:
    try:
        cell.wait_ready(CONNECT_TIMEOUT)
    except LinkRefusedError:
        raise
    except LinkError as error:
        raise LinkError(
            f"no sender answers at {address} for {CONNECT_TIMEOUT:g} s; does `zcell send` still run, and is this the address it printed?"
        ) from error


def _describe(cell: Cell, ref: str, abort: Abort) -> dict[str, Any]:
    """What the sender says about `ref`, checked: kind, name, the id of a tree, mode and mtime_ns of a file if it tells them."""
    reply = cell.request(SENDER, CHANNEL, DESCRIBE, ref, timeout=CONNECT_TIMEOUT, abort=abort, optional=True)
    reply.raise_for_rc()
    found: Any = reply.payload
    if found is None:
        raise CommandError(TRANSFER, f"the sender does not offer {ref!r}; copy the line that it printed")
    if not isinstance(found, dict) or found.get("kind") not in (FILE, DIRECTORY):
        raise CommandError(TRANSFER, "the sender's description of what it offers cannot be understood; is it the same version?")
    name = found.get("name")
    fault = name_fault(name) if isinstance(name, str) else "it is no text"
    if fault:
        raise CommandError(TRANSFER, f"the sender offers something under the name {str(name)[:300]!r}: {fault}")
    for field, low, high in (("mode", 0, 0o777), ("mtime_ns", -_MAX_TIME_NS, _MAX_TIME_NS)):
        value = found.get(field)
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise CommandError(TRANSFER, f"the sender's {field} of {name!r} is {str(value)[:50]}, expected {low} to {high}")
    return dict(found)


def _refuse_directory(target: Path) -> None:
    """Nothing of a file is fetched when its name is taken by a directory, or a link to one."""
    if target.is_dir():
        raise CommandError(
            USAGE, f"{target} is a directory, and the sender offers a file of that name; move it away, or give another --to"
        )


def _fetch_file(cell: Cell, ref: str, description: dict[str, Any], to: Path, drawing: Drawing, abort: Abort) -> Fetched:
    target = to / description["name"]
    continued = target.with_name(f"{target.name}.part.journal").exists()
    mode = description.get("mode")
    if mode is not None:
        mode |= stat.S_IRUSR  # who fetched it can read it, and go on with it
    sink = FileSink(target, resume=True, exact=True, mode=mode, mtime_ns=description.get("mtime_ns"))
    cell.downloads.fetch_into_future(SENDER, ref, sink, progress=drawing.of_file, abort=abort, optional=True).result()
    digest = file_digest(target)
    return Fetched(target, 1, digest.length, str(digest), continued)


def _fetch_directory(cell: Cell, ref: str, description: dict[str, Any], to: Path, drawing: Drawing, abort: Abort) -> Fetched:
    from zcell.workspace.tree import fetch_tree

    try:
        target, received = fetch_tree(cell, SENDER, str(description.get("offer")), to, progress=drawing.of_tree, abort=abort)
    except (DownloadError, WorkspaceError) as error:
        # the sender looks whether what it offers has changed: then there is no use in trying again
        answer = cell.request(SENDER, CHANNEL, FAILED, ref, timeout=CONNECT_TIMEOUT, abort=abort, optional=True)
        if answer.ok and answer.payload:
            raise CommandError(TRANSFER, f"{error}; {ADVICE}") from error
        raise
    digest = str(received.digest)
    reply = cell.request(
        SENDER, CHANNEL, CONFIRM, {"ref": ref, "digest": digest}, timeout=CONNECT_TIMEOUT, abort=abort, optional=True
    )
    if not reply.ok or reply.payload is not True:
        raise CommandError(TRANSFER, f"{target} is complete, but the sender could not be told: {reply.error or reply.rc.value}")
    return Fetched(target, received.files, received.fetched_bytes, digest)


def _summarise(screen: Screen, fetched: Fetched, seconds: float) -> None:
    rate = fetched.fetched_bytes / MIB / max(seconds, 1e-9)
    size = f"{size_text(fetched.fetched_bytes)} {'complete, begun by an earlier try' if fetched.continued else 'fetched'}"
    speed = "" if fetched.continued else f", {rate:.1f} MiB/s"
    screen.result(
        "summary",
        f"{fetched.path}: {files_text(fetched.files)}, {size}, {fetched.digest}, {seconds_text(seconds)}{speed}",
        path=str(fetched.path),
        files=fetched.files,
        bytes=fetched.fetched_bytes,
        digest=fetched.digest,
        seconds=round(seconds, 3),
        continued=fetched.continued,
        mib_per_second=None if fetched.continued else round(rate, 1),
    )
