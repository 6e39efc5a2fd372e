"""``zcell send``. Invariant: it ends with 0 only when every receiver has confirmed that it stored and verified everything."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zcell.cli.exits import DONE, TRANSFER, USAGE, VERIFICATION, CommandError
from zcell.cli.interrupt import Interrupts
from zcell.cli.offering import DirectoryOffer, FileOffer, Offer
from zcell.cli.screen import Progress, Screen, seconds_text
from zcell.cli.share import CHANNEL, DESCRIBE, SENDER, check_address, checked_secret, name_fault

if TYPE_CHECKING:
    from zcell.cell import Cell


class Receivers:
    """How far each receiver is, drawn as one bar."""

    def __init__(self, screen: Screen, draw: Progress, expected: int) -> None:
        self._screen = screen
        self._draw = draw
        self._expected = expected
        self._done: dict[str, tuple[int, int]] = {}

    def __call__(self, receiver: str, done_bytes: int, total_bytes: int) -> None:
        self._done[receiver] = (done_bytes, total_bytes)
        done = sum(done for done, _ in self._done.values())
        self._draw(done, max(total for _, total in self._done.values()) * max(self._expected, len(self._done)) or None)
        if self._screen.json:
            self._screen.result("progress", receiver=receiver, bytes=done_bytes, total_bytes=total_bytes)


def send_path(
    path: Path,
    *,
    listen: str,
    receivers: int,
    excludes: Sequence[str],
    skip_links: bool,
    insecure: bool,
    secret_file: Path | None,
    json: bool,
) -> int:
    """Offer `path` until `receivers` have it; the exit code."""
    from zcell.cell import Cell

    screen = Screen(json=json)
    if not path.exists():
        raise CommandError(USAGE, f"{path}: there is no such file or directory")
    fault = name_fault(path.resolve().name)
    if fault:
        raise CommandError(VERIFICATION, f"{path}: nothing can travel under the name {path.resolve().name!r}: {fault}")
    check_address(listen, "--listen", insecure)
    fresh = secret_file is not None and not secret_file.exists()
    secret = checked_secret(insecure, secret_file, create=True)
    if fresh:
        screen.note(f"wrote a new link secret to {secret_file}; the other side needs a copy of it, with mode 0600")
    with (
        Interrupts() as interrupts,
        Cell(SENDER, listen=[listen], secret=secret, insecure=insecure) as cell,
        screen.progress("sending") as draw,
    ):
        offer = _offer(cell, path, receivers, Receivers(screen, draw, receivers), (excludes, skip_links))
        interrupts.abort.add_callback(offer.withdraw)
        address = public_address(cell.endpoints[0])
        words = ["zcell", "get", address, offer.ref]
        if insecure:
            words += ["--insecure", "--secret-file", str(secret_file)]
        screen.result("offer", shlex.join(words), address=address, ref=offer.ref, kind=offer.kind, bytes=offer.size_bytes)
        if screen.lost:
            return screen.lost  # nobody can know what to fetch
        start = time.monotonic()
        failure = offer.wait()
        confirmed = offer.confirmed()
        seconds = time.monotonic() - start
    if interrupts.interrupted:
        screen.note(f"interrupted; {confirmed} of {receivers} receivers have it, the others keep what they have verified")
        return interrupts.exit_code
    if failure:
        raise CommandError(TRANSFER, f"{path}: {failure}")
    screen.note(f"{confirmed} of {receivers} receivers have confirmed {path} after {seconds_text(seconds)}")
    if json:
        screen.result("summary", path=str(path), receivers=confirmed, bytes=offer.size_bytes, seconds=round(seconds, 3))
    return DONE


def _offer(cell: Cell, path: Path, receivers: int, progress: Receivers, selection: tuple[Sequence[str], bool]) -> Offer:
    offer = _choose(cell, path, receivers, progress, selection)
    description = {"kind": offer.kind, "name": path.resolve().name, "bytes": offer.size_bytes, "offer": offer.offer_id}
    description |= offer.attributes
    cell.register(CHANNEL, DESCRIBE, lambda request: description if request.payload == offer.ref else None)
    return offer


def _choose(cell: Cell, path: Path, receivers: int, progress: Receivers, selection: tuple[Sequence[str], bool]) -> Offer:
    if path.is_dir():
        excludes, skip_links = selection
        return DirectoryOffer(cell, path, receivers, progress, excludes, skip_links)
    return FileOffer(cell, path, receivers, progress)


def public_address(endpoint: str) -> str:
    """`endpoint` as others can reach it: a wildcard host becomes this machine's name."""
    parts = urlsplit(endpoint)
    if parts.scheme == "tcp" and parts.hostname in ("0.0.0.0", "::"):  # noqa: S104  compared with, not bound to
        return f"tcp://{socket.getfqdn()}:{parts.port}"
    return endpoint
