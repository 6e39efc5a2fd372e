"""``zcell send``. Invariant: it ends with 0 only when every receiver has confirmed that it stored and verified everything."""

from __future__ import annotations

import secrets
import shlex
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zcell.cli.exits import DONE, TRANSFER, USAGE, CommandError
from zcell.cli.interrupt import Interrupts
from zcell.cli.screen import Progress, Screen, seconds_text
from zcell.cli.share import CHANNEL, DESCRIBE, FILE, SENDER, checked_secret

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.download.progress import ProgressEvent

PATIENCE = 7 * 24 * 3600.0
"""Seconds without any receiver after which an offer is withdrawn."""


class _Receivers:
    """How far each receiver is, drawn as one bar."""

    def __init__(self, screen: Screen, draw: Progress, expected: int) -> None:
        self._screen = screen
        self._draw = draw
        self._expected = expected
        self._done: dict[str, tuple[int, int]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        self._done[event.receiver] = (event.bytes_done, event.bytes_total or 0)
        done, total = (sum(values) for values in zip(*self._done.values(), strict=True))
        self._draw(done, total * max(1, self._expected // len(self._done)) or None)
        if self._screen.json:
            self._screen.result(
                "progress",
                receiver=event.receiver,
                bytes=event.bytes_done,
                total_bytes=event.bytes_total,
                state=event.state.value,
            )


def send_path(path: Path, *, listen: str, receivers: int, insecure: bool, secret_file: Path | None, json: bool) -> int:
    """Offer `path` until `receivers` have it; the exit code."""
    from zcell.cell import Cell

    screen = Screen(json=json)
    if not path.exists():
        raise CommandError(USAGE, f"{path}: there is no such file or directory")
    fresh = secret_file is not None and not secret_file.exists()
    secret = checked_secret(insecure, secret_file, create=True)
    if fresh:
        screen.note(f"wrote a new link secret to {secret_file}; the other side needs a copy of it, with mode 0600")
    with (
        Interrupts() as interrupts,
        Cell(SENDER, listen=[listen], secret=secret, insecure=insecure) as cell,
        screen.progress("sending") as draw,
    ):
        offer = _FileOffer(cell, path, receivers, _Receivers(screen, draw, receivers))
        description = {"kind": offer.kind, "name": path.resolve().name, "bytes": offer.size_bytes}
        cell.register(CHANNEL, DESCRIBE, lambda request: description if request.payload == offer.ref else None)
        interrupts.abort.add_callback(offer.withdraw)
        address = public_address(cell.endpoints[0])
        words = ["zcell", "get", address, offer.ref]
        if insecure:
            words += ["--insecure", "--secret-file", str(secret_file)]
        screen.result("offer", shlex.join(words), address=address, ref=offer.ref, kind=offer.kind, bytes=offer.size_bytes)
        start = time.monotonic()
        failure = offer.wait()
        confirmed = offer.confirmed()
        seconds = time.monotonic() - start
    if interrupts.interrupted:
        screen.note(
            f"interrupted; {confirmed} of {receivers} receivers have it; a receiver that was not done keeps what it verified"
        )
        return interrupts.exit_code
    if failure:
        raise CommandError(TRANSFER, f"{path}: {failure}")
    screen.note(f"{confirmed} of {receivers} receivers have confirmed {path} after {seconds_text(seconds)}")
    if json:
        screen.result("summary", path=str(path), receivers=confirmed, bytes=offer.size_bytes, seconds=round(seconds, 3))
    return DONE


class _FileOffer:
    """One file, by one ref."""

    kind = FILE

    def __init__(self, cell: Cell, path: Path, receivers: int, progress: _Receivers) -> None:
        self._transaction = cell.downloads.transaction(receivers=receivers, idle_timeout=PATIENCE, progress=progress)
        ref = self._transaction.add_file(path, ref_id=secrets.token_hex(16))
        self.ref = ref.id
        self.size_bytes = ref.size or 0

    def withdraw(self) -> None:
        self._transaction.delete()

    def wait(self) -> str:
        """Until all receivers have it: ``""``, or why that did not happen."""
        status = self._transaction.wait()
        return "" if status == "FINISHED" else f"the transfer ended: {status.value}"

    def confirmed(self) -> int:
        return len({receiver for _, receiver in self._transaction.statistics().confirmed})


def public_address(endpoint: str) -> str:
    """`endpoint` as others can reach it: a wildcard host becomes this machine's name."""
    parts = urlsplit(endpoint)
    if parts.scheme == "tcp" and parts.hostname in ("0.0.0.0", "::"):  # noqa: S104  compared with, not bound to
        return f"tcp://{socket.getfqdn()}:{parts.port}"
    return endpoint
