"""A sender in the same process, for tests of the receiving side alone. A fake: the real one speaks through cells (test_transfer)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from zcell.workspace.carry import Base
from zcell.workspace.plan import parse_have, same_entries
from zcell.workspace.receive import Received, receive_tree
from zcell.workspace.scan import ScannedTree, scan_tree
from zcell.workspace.stage import Stage


class LinkLostError(Exception):
    """What stands for any failure of the network."""


class LocalSender:
    """Sends by copying; loses the link after `fail_after` files."""

    def __init__(self, tree: ScannedTree, *, fail_after: int | None = None) -> None:
        self.tree = tree
        self.sent: list[str] = []
        self.have: list[str] = []
        self._fail_after = fail_after

    def select(self, have: bytes) -> set[int]:
        parsed = parse_have(have, self.tree.manifest)
        self.have = [self.tree.manifest.entries[index].path for index in parsed]
        return same_entries(self.tree, parsed, {})

    def fetch_small(self, indices: list[int], create: Callable[[int], int], arrived: Callable[[int, int], None]) -> None:
        for index in indices:
            content = self._content(index)
            fd = create(index)
            os.write(fd, content)
            arrived(index, fd)

    def fetch_large(self, indices: list[int], stage: Stage, arrived: Callable[[int], None]) -> None:
        for index in indices:
            entry = self.tree.manifest.entries[index]
            content = self._content(index)
            if entry.extents is not None:
                content = b"".join(content[offset : offset + length] for offset, length in entry.extents)
            stage.part_path(entry.path).write_bytes(content)
            arrived(index)

    def _content(self, index: int) -> bytes:
        if self._fail_after is not None and len(self.sent) >= self._fail_after:
            raise LinkLostError
        self.sent.append(self.tree.manifest.entries[index].path)
        fd = self.tree.open_file(index)
        with os.fdopen(fd, "rb") as source:
            return source.read()


def base_of(destination: Path, top: str = "job", *, having: Callable[[str], bool] = lambda path: True) -> Base:
    """What the other side would have begun with, had it been given what `destination` holds now."""
    scanned = scan_tree({top: destination / top}, skip_special=True).manifest if (destination / top).is_dir() else ()
    return Base({entry.path: entry for entry in scanned if having(entry.path)}, "test")


def transfer(source: Path, destination: Path, top: str = "job", **options: object) -> tuple[LocalSender, Received]:
    """One whole transfer of `top` from below `source` to below `destination`; `base` says what of the destination's present
    state the source had begun with.
    """
    fail_after = options.pop("fail_after", None)
    assert fail_after is None or isinstance(fail_after, int)
    tree = scan_tree({top: source / top})
    sender = LocalSender(tree, fail_after=fail_after)
    return sender, receive_tree(destination, top, tree.manifest, sender, **options)  # type: ignore[arg-type]
