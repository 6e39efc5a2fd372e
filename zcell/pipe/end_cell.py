"""The cell of a pipe's end. Invariant owned here: a cell that pipes made lives exactly as long as one of them uses it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable

from zcell.cell.cell import Cell
from zcell.fqcn import FQCN
from zcell.pipe.pipe import Mode

_log = logging.getLogger("zcell.pipe.cell")
_PART = re.compile(r"[A-Za-z0-9_-]+\Z")


def end_label(site_name: str, token: str, mode: Mode) -> str:
    """The last label of an end's name. Raises `ValueError` naming the argument that does not fit into one."""
    for name, text in (("site_name", site_name), ("token", token)):
        if not isinstance(text, str) or not _PART.match(text):
            raise ValueError(f"{name} is made of letters, digits, '_' and '-', got {text!r}")
    label = f"{site_name}_{token}_{mode.value.lower()}"
    if len(label) > 63:
        raise ValueError(f"site_name and token are too long together: the end's label {label!r} has more than 63 characters")
    return label


def end_name(above: str, label: str) -> str:
    """The end's full name below the cell `above`; at first level when that is the server."""
    return label if above == FQCN.ROOT_SERVER else FQCN.join([above, label])


class EndCell:
    """Counts the pipes that share a cell. One that pipes made is stopped with the last of them; another one's cell is not."""

    def __init__(self, cell: Cell, parent_url: str | None = None, *, owned: bool) -> None:
        self.cell = cell
        self.parent_url = parent_url
        self._owned = owned
        self._lock = threading.Lock()
        self._users = 0

    def acquire(self) -> bool:
        """Take part; False when the cell was stopped with its last pipe already."""
        with self._lock:
            if self._users < 0:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
            if last and self._owned:
                self._users = -1
        if last and self._owned:
            _log.info("cell %s stops with its last pipe", self.cell.fqcn)
            self.cell.stop()


def end_cell_of(cell: Cell, name: str, make: Callable[[], Cell], parent_url: str | None) -> EndCell:
    """The end `name`: `cell` itself when it has that name, else the one below it that the pipes of `cell` share."""
    if cell.fqcn == name:
        return _acquired(cell.extension("zcell.pipe", lambda c: EndCell(c, owned=False)))
    key = f"zcell.pipe:{name}"
    ends = cell.extension("zcell.pipe.ends", lambda c: _Ends())
    return ends.get(key, make, parent_url)


def new_end_cell(make: Callable[[], Cell], parent_url: str | None) -> EndCell:
    """A cell of its own, which further pipes can share by its `cell`."""
    cell = make()
    cell.start()
    return _acquired(cell.extension("zcell.pipe", lambda c: EndCell(c, parent_url, owned=True)))


def _acquired(end: EndCell) -> EndCell:
    if not end.acquire():
        raise BrokenPipeError(f"cell {end.cell.fqcn} was stopped with its last pipe; build the pipe without cell=")
    return end


class _Ends:
    """The end cells below one cell of this process, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, EndCell] = {}
        self._closed = False

    def get(self, key: str, make: Callable[[], Cell], parent_url: str | None) -> EndCell:
        with self._lock:
            if self._closed:
                raise BrokenPipeError("the cell above was stopped, and no pipe's end can be below it any more")
            end = self._ends.get(key)
            if end is None or not end.acquire():
                end = self._ends[key] = new_end_cell(make, parent_url)
            return end

    def shutdown(self) -> None:
        """The cell above stops: its ends cannot do anything without it."""
        with self._lock:
            self._closed = True
            ends = list(self._ends.values())
            self._ends.clear()
        for end in ends:
            end.cell.stop()
