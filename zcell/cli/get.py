"""``zcell get``. Invariant: the final name appears only with the whole, verified content; what an interruption leaves is continued."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.cli.exits import DONE, TRANSFER, USAGE, CommandError
from zcell.cli.interrupt import Interrupts
from zcell.cli.screen import Progress, Screen, seconds_text, size_text
from zcell.cli.share import CHANNEL, DESCRIBE, SENDER, checked_secret
from zcell.digest import file_digest
from zcell.errors import ZcellError
from zcell.limits import MIB

if TYPE_CHECKING:
    from zcell.abort import Abort
    from zcell.cell import Cell
    from zcell.download.progress import ProgressEvent

CONNECT_TIMEOUT = 30.0


def get_ref(address: str, ref: str, to: Path, *, insecure: bool, secret_file: Path | None, json: bool) -> int:
    """Fetch `ref` from the sender at `address` into the directory `to`; the exit code."""
    from zcell.cell import Cell

    screen = Screen(json=json)
    secret = checked_secret(insecure, secret_file)
    if to.exists() and not to.is_dir():
        raise CommandError(USAGE, f"--to {to} is not a directory")
    part: Path | None = None
    cell = Cell(f"get-{secrets.token_hex(8)}", parent=address, secret=secret, insecure=insecure)
    with Interrupts() as interrupts, cell, screen.progress("fetching") as draw:
        leave = interrupts.abort.add_callback(lambda: cell.stop(1.0))  # ends the wait for a link at once
        try:
            cell.wait_ready(CONNECT_TIMEOUT)
            interrupts.abort.remove_callback(leave)
            description = _describe(cell, ref, interrupts.abort)
            to.mkdir(parents=True, exist_ok=True)
            target = to / description["name"]
            part = target.with_name(target.name + ".part")
            start = time.monotonic()
            cell.downloads.fetch_file(SENDER, ref, target, progress=_Drawing(screen, draw), abort=interrupts.abort)
            seconds = time.monotonic() - start
        except (ZcellError, CommandError, OSError):
            _tell_what_is_kept(screen, part)
            if not interrupts.interrupted:
                raise
            screen.note("interrupted")
            return interrupts.exit_code
    _summarise(screen, target, seconds)
    return DONE


class _Drawing:
    """Draws, or with ``--json`` tells, how far the transfer is; remembers it for the summary."""

    def __init__(self, screen: Screen, draw: Progress) -> None:
        self._screen = screen
        self._draw = draw

    def __call__(self, event: ProgressEvent) -> None:
        self._draw(event.bytes_done, event.bytes_total)
        if self._screen.json:
            self._screen.result("progress", bytes=event.bytes_done, total_bytes=event.bytes_total, state=event.state.value)


def _describe(cell: Cell, ref: str, abort: Abort) -> dict[str, Any]:
    """What the sender says about `ref`: kind, name and bytes, checked."""
    reply = cell.request(SENDER, CHANNEL, DESCRIBE, ref, timeout=CONNECT_TIMEOUT, abort=abort)
    reply.raise_for_rc()
    found: Any = reply.payload
    if found is None:
        raise CommandError(TRANSFER, f"the sender does not offer {ref!r}; copy the line that it printed")
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > 240:
        raise CommandError(TRANSFER, f"the sender offers something under the name {name!r}, which is no plain file name")
    return dict(found)


def _tell_what_is_kept(screen: Screen, part: Path | None) -> None:
    if part is not None and part.exists():
        screen.note(f"what has been verified is kept in {part}; the same command continues from there")


def _summarise(screen: Screen, target: Path, seconds: float) -> None:
    digest = file_digest(target)
    rate = digest.length / MIB / max(seconds, 1e-9)
    text = f"{target}: 1 file, {size_text(digest.length)}, {digest}, {seconds_text(seconds)}, {rate:.1f} MiB/s"
    screen.result(
        "summary",
        text,
        path=str(target),
        files=1,
        bytes=digest.length,
        digest=str(digest),
        seconds=round(seconds, 3),
        mib_per_second=round(rate, 1),
    )
