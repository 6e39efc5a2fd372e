"""``zcell sum``. Invariant: what it prints for a file is what a transfer of that file is verified with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

from zcell.cli.early import raise_when_interrupted
from zcell.cli.exits import DONE, USAGE
from zcell.cli.screen import Screen
from zcell.digest import TreeHasher, file_digest, files_digest
from zcell.limits import MIB

_READ_BYTES = 4 * MIB
_GROUP = 256
"""Files hashed by one call, so that small ones share the lanes."""
STANDARD_INPUT = "-"
_STDIN = 0


class _Hasher(Protocol):
    def update(self, data: memoryview, /) -> None: ...


def sum_paths(paths: list[str], *, flat: bool, json: bool) -> int:
    """Print the digest of each path (``-`` is standard input); the exit code."""
    raise_when_interrupted()
    screen = Screen(json=json)
    code = DONE
    files = chain.from_iterable(_files_of(path) for path in paths)
    for path, digest, size, error in _flat_sums(files) if flat else _tree_sums(files):
        if screen.lost:
            return screen.lost
        if error is None:
            screen.result("sum", _line(digest, path), path=path, digest=digest, bytes=size)
            continue
        code = USAGE
        screen.note(f"{path}: {error}")
        if json:
            screen.result("error", path=path, error=error, exit_code=USAGE)
    return code


def _line(digest: str, path: str) -> str:
    """As sha256sum writes it: a backslash in front says that the name is escaped."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{digest}  {path}" if escaped == path else f"\\{digest}  {escaped}"


_Sum = tuple[str, str, int, str | None]
"""Path, digest, bytes, and what went wrong."""


def _files_of(path: str) -> Iterator[str]:
    """The regular files in a directory, by name; what is none is given back as it is, and named if it cannot be read."""
    if not Path(path).is_dir():
        yield path
        return
    try:
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield path
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_of(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


def _tree_sums(paths: Iterable[str]) -> Iterator[_Sum]:
    paths = iter(paths)
    while group := list(islice(paths, _GROUP)):
        try:
            if STANDARD_INPUT in group:
                raise OSError("standard input is read alone")
            found = files_digest(group)
        except OSError:  # one of them: each by itself says which
            yield from map(_tree_sum, group)
        else:
            yield from ((path, str(digest), digest.length, None) for path, digest in zip(group, found, strict=True))


def _tree_sum(path: str) -> _Sum:
    try:
        if path == STANDARD_INPUT:
            hasher = TreeHasher()
            _feed(_STDIN, hasher)
            digest = hasher.result()
        else:
            digest = file_digest(path)
    except OSError as error:
        return path, "", 0, _reason(error)
    return path, str(digest), digest.length, None


def _flat_sums(paths: Iterable[str]) -> Iterator[_Sum]:
    for path in paths:
        hasher = hashlib.sha256()
        try:
            if path == STANDARD_INPUT:
                size = _feed(_STDIN, hasher)
            else:
                with Path(path).open("rb", buffering=0) as file:
                    size = _feed(file.fileno(), hasher)
        except OSError as error:
            yield path, "", 0, _reason(error)
        else:
            yield path, hasher.hexdigest(), size, None


def _feed(fd: int, hasher: _Hasher) -> int:
    """Hash what can be read from `fd` until its end; the bytes."""
    size = 0
    buffer = memoryview(bytearray(_READ_BYTES))
    with os.fdopen(fd, "rb", buffering=0, closefd=False) as file:
        while got := file.readinto(buffer):
            hasher.update(buffer[:got])
            size += got
    return size


def _reason(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a directory that cannot be listed"
    return error.strerror or str(error)
