"""ZIP archives as streams, both ways. Invariant: `unzip_stream` either puts the whole tree at its destination or changes nothing there.

`zip_stream(entries)` writes an archive while it is sent; `unzip_stream(chunks, to, limits)` extracts one while it arrives.
Neither seeks, neither needs the archive on disk. `unzip_into` is the latter's core for callers that stage for themselves.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from zcell.workspace.limits import ExtractLimits
from zcell.workspace.names import DEFAULT_LIMITS
from zcell.workspace.treewriter import TreeWriter, empty_directory
from zcell.workspace.zipreader import Extracted, OnEntry, unzip_into
from zcell.workspace.zipwriter import ZipEntry, zip_stream

__all__ = ["ExtractLimits", "Extracted", "OnEntry", "ZipEntry", "unzip_into", "unzip_stream", "zip_stream"]


def unzip_stream(
    chunks: Iterable[bytes | memoryview],
    to: str | os.PathLike[str],
    limits: ExtractLimits = DEFAULT_LIMITS,
    *,
    on_entry: OnEntry | None = None,
) -> Extracted:
    """Extracts the archive in `chunks` (of any sizes) as the directory `to`, which must not exist or be empty.

    The tree is written beside `to` and renamed when it is complete, so nobody sees half of it. Raises `BundleError` naming the
    entry and the rule, or the place in the archive, that made it unacceptable; `FileExistsError` when `to` is something else;
    `OSError` when writing fails, and whatever `chunks` or `on_entry` raises. After any of them `to` is as it was and nothing
    is left beside it.
    """
    target = Path(to)
    mode = _mode_of_empty(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name[:64]}.", suffix=".part", dir=target.parent))
    staging_fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.mkdir("tree", 0o777, dir_fd=staging_fd)
        tree_fd = os.open("tree", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=staging_fd)
        try:
            with TreeWriter(tree_fd) as tree:
                extracted = unzip_into(chunks, tree, limits, on_entry=on_entry)
            if mode is not None:
                os.fchmod(tree_fd, mode)
        finally:
            os.close(tree_fd)
        os.rename("tree", target, src_dir_fd=staging_fd)
    finally:
        empty_directory(staging_fd)
        os.close(staging_fd)
        staging.rmdir()
    return extracted


def _mode_of_empty(target: Path) -> int | None:
    """The mode of the empty directory `target`, None when there is none yet."""
    try:
        with os.scandir(target) as entries:
            if target.is_symlink() or any(entries):
                raise FileExistsError(errno.EEXIST, "the destination must not exist or be an empty directory", str(target))
    except FileNotFoundError:
        if target.is_symlink():
            raise FileExistsError(errno.EEXIST, "the destination must not be a link", str(target)) from None
        return None
    except NotADirectoryError:
        raise FileExistsError(errno.EEXIST, "the destination must not exist or be an empty directory", str(target)) from None
    return target.stat().st_mode & 0o7777
