"""What the destination has and the sender never listed. Invariant: it is kept, unless the other side had it and removed it.

A kept file gets a second link in the stage, so keeping costs no room. A kept entry that is in the way of an arriving one stops
the transfer before anything is touched: neither may silently win.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from zcell.errors import BundleError
from zcell.workspace.assembly import Assembly
from zcell.workspace.directories import OPEN_DIRECTORY, Descent

Dropped = Callable[[str], bool]


def carry_over(assembly: Assembly, destination: Descent, dropped: Dropped, tick: Callable[[], None] = lambda: None) -> int:
    """Keep, in the stage, what lies below the manifest's top directories at the destination and is not in the manifest.

    `dropped(path)` tells what the other side removed on purpose. Returns how many entries were dropped or replaced by nothing.
    Raises `BundleError` when a kept entry and an arriving one cannot both be there.
    """
    carrier = _Carrier(assembly, dropped, tick)
    for entry in assembly.manifest:
        if "/" not in entry.path:
            carrier.top(destination, entry.path)
    return carrier.dropped_entries


class _Carrier:
    def __init__(self, assembly: Assembly, dropped: Dropped, tick: Callable[[], None]) -> None:
        self._assembly = assembly
        self._kinds = {entry.path: entry.is_dir for entry in assembly.manifest}
        self._dropped = dropped
        self._tick = tick
        self.dropped_entries = 0

    def top(self, destination: Descent, name: str) -> None:
        try:
            fd = destination.at(name)
        except (FileNotFoundError, NotADirectoryError):  # nothing there, or no directory: the swap decides
            return
        self._below(fd, name)

    def _below(self, directory: int, prefix: str) -> None:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda e: e.name)
        for entry in entries:
            self._tick()
            path = f"{prefix}/{entry.name}"
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._directory(directory, entry.name, path, status)
            else:
                self._other(directory, entry.name, path, status)

    def _directory(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        arriving = self._kinds.get(path)
        gone = self._dropped(path)
        if arriving is None and not gone:
            self._assembly.carry_directory(path, status)
        elif arriving is None:
            self.dropped_entries += 1
        elif arriving is False and not gone:
            raise _in_the_way(path, "directory", "file")
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=above)
        try:
            self._below(fd, path)
        finally:
            os.close(fd)

    def _other(self, above: int, name: str, path: str, status: os.stat_result) -> None:
        arriving = self._kinds.get(path)
        if self._dropped(path):
            self.dropped_entries += arriving is None
        elif arriving is True:
            raise _in_the_way(path, "file", "directory")
        elif arriving is None:
            self._refuse_below_a_file(path)
            self._assembly.carry_file(path, (above, name), status)

    def _refuse_below_a_file(self, path: str) -> None:
        """A kept file below what is to become a file has no place to be."""
        parent = path.rpartition("/")[0]
        while parent:
            if self._kinds.get(parent) is False:
                raise _in_the_way(parent, f"directory with {path!r} in it", "file")
            parent = parent.rpartition("/")[0]


def _in_the_way(path: str, here: str, arriving: str) -> BundleError:
    return BundleError(f"{path!r}: the destination has a {here} that never travelled, where a {arriving} arrives; move it away")
