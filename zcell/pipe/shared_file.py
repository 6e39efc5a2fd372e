"""A file in a message. Invariant owned here: its content goes from disk to disk; no cell on the way holds it in memory.

Over cells it travels as a ref, whatever its size, and the receiver pulls it, verified and resumable, when it says where to. Over a
directory it is part of the message's file.
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from zcell import codec
from zcell.abort import Abort
from zcell.cell.cell import Cell
from zcell.codec import RefTarget
from zcell.errors import CodecError
from zcell.pipe.arguments import abort_or_none, seconds

_IDLE_TIMEOUT = 60.0
_SLICE = 8 << 20


class FileOffering(Protocol):
    """Offers a file by reference while a message is encoded."""

    def add_file(self, path: Path) -> RefTarget: ...


_offering: ContextVar[FileOffering | None] = ContextVar("zcell_file_offering", default=None)
_cell: ContextVar[Cell | None] = ContextVar("zcell_file_cell", default=None)


class SharedFile:
    """Put `SharedFile(path)` into the data of a task or a result; the other side gets one with the same `name` and `size`.

    There it has no `path` until `save` has put it somewhere. Forwarded untouched, it still comes straight from its owner. A
    result that holds one counts as delivered once it was saved. Raises `OSError` when `path` is no readable file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path | None = Path(path)
        self.name = self.path.name
        self.size = _size_of(self.path)
        self._target: RefTarget | None = None
        self._content: codec.Buffer = b""
        self._fetcher: Cell | None = None

    @classmethod
    def _received(cls, name: str, size: int) -> SharedFile:
        self = cls.__new__(cls)
        self.path, self.name, self.size = None, name, size
        self._target, self._content, self._fetcher = None, b"", None
        return self

    def __repr__(self) -> str:
        return f"SharedFile({self.name!r}, size={self.size})"

    def save(self, to: str | os.PathLike[str], *, idle_timeout: float = _IDLE_TIMEOUT, abort: Abort | None = None) -> Path:
        """Put the file at `to` (a directory: under its own name there), replacing what is there; the path.

        It appears under that name only when it is whole. Raises `DownloadError` when it cannot be had; then ``NAME.part`` stays,
        and the next `save` to the same place continues. Raises `OSError` for the disk.
        """
        return self.save_with(self._fetcher, to, idle_timeout=idle_timeout, abort=abort)

    def save_with(
        self, cell: Cell | None, to: str | os.PathLike[str], *, idle_timeout: float = _IDLE_TIMEOUT, abort: Abort | None = None
    ) -> Path:
        """As `save`, by `cell`: for a file that came in a message of a cell and not through a pipe."""
        idle_timeout, abort = seconds("idle_timeout", idle_timeout, above=0), abort_or_none("abort", abort)
        place = Path(to)
        if place.is_dir():
            place = place / self.name
        if self._target is not None:
            if cell is None:
                raise ValueError(f"{self!r} came in a cell's message: say which cell is to fetch it, with save_with(cell, to)")
            owner, ref_id, _ = self._target
            cell.downloads.fetch_file(owner, ref_id, place, idle_timeout=idle_timeout, abort=abort)
        elif self.path is not None:
            _replace(place, lambda fd: _copy(self.path, fd))
        else:
            _replace(place, lambda fd: _write(self._content, fd))
        return place

    def encode(self) -> list[Any]:
        """For the codec: as a ref where there is an offering, else with its content."""
        offering = _offering.get()
        if self._target is not None:
            return [self.name, self.size, list(self._target), b""]
        if self.path is None:
            return [self.name, self.size, None, self._content]
        if offering is not None:
            return [self.name, self.size, list(offering.add_file(self.path)), b""]
        return [self.name, self.size, None, _mapped(self.path)]

    @classmethod
    def decode(cls, fields: Any) -> SharedFile:
        """For the codec. Raises `CodecError` for what no `encode` made."""
        name, size, target, content = fields
        if not isinstance(name, str) or not isinstance(size, int) or name != Path(name).name or name in ("", ".", ".."):
            raise CodecError("a shared file without a usable name")
        self = cls._received(name, size)
        if target is None:
            self._content = content
        else:
            owner, ref_id, length = target
            if not isinstance(owner, str) or not isinstance(ref_id, str):
                raise CodecError("a shared file with a malformed reference")
            self._target, self._fetcher = RefTarget((owner, ref_id, length)), _cell.get()
        return self


codec.register(SharedFile, "zcell.SharedFile", SharedFile.encode, SharedFile.decode)


@contextmanager
def files_offered_by(offering: FileOffering) -> Iterator[None]:
    """While a message is encoded: files in it go through `offering`."""
    token = _offering.set(offering)
    try:
        yield
    finally:
        _offering.reset(token)


@contextmanager
def files_fetched_by(cell: Cell) -> Iterator[None]:
    """While a message is decoded: `cell` will fetch the files in it."""
    token = _cell.set(cell)
    try:
        yield
    finally:
        _cell.reset(token)


def _size_of(path: Path) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a directory: a SharedFile is one file; send its files, or an archive of them")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a regular file")
    return found.st_size


def _mapped(path: Path) -> codec.Buffer:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _replace(place: Path, fill: Any) -> None:
    fd, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
    try:
        try:
            fill(fd)
        finally:
            os.close(fd)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _copy(source: Path | None, fd: int) -> None:
    assert source is not None
    with source.open("rb") as file, os.fdopen(os.dup(fd), "wb") as target:
        shutil.copyfileobj(file, target, _SLICE)


def _write(content: codec.Buffer, fd: int) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view[:_SLICE]) :]
