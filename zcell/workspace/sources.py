"""Files of a listed tree as sources of downloads. Invariant: only the very file that was listed is sent, reached without any link."""

from __future__ import annotations

import os
from pathlib import Path

from zcell._native import chunk as frames
from zcell._native.sha256 import chunk_root
from zcell.download.sealing import Frame
from zcell.download.sources import FileSource, SourceChangedError, SourceError
from zcell.errors import BundleError
from zcell.workspace.scan import ScannedTree
from zcell.workspace.sparse import PackedExtents, read_exactly


class ScannedSource(FileSource):
    """One large file of `tree`; of a sparse one the data only, extents end to end."""

    def __init__(self, tree: ScannedTree, index: int, chunk_bytes: int) -> None:
        entry = tree.manifest.entries[index]
        self._tree = tree
        self._index = index
        self._packed = None if entry.extents is None else PackedExtents(entry.extents)
        super().__init__(Path(entry.path), chunk_bytes)
        if self._packed is not None:
            self._size = self._packed.size

    def _open_descriptor(self) -> int:
        try:
            return self._tree.open_file(self._index)
        except BundleError as error:
            raise SourceChangedError(str(error)) from error

    def load(self, index: int, *, tree: bool) -> Frame | None:
        if self._packed is None:
            return super().load(index, tree=tree)
        offset, length = self._span(index)
        payload = bytearray(length)
        try:
            done = 0
            for at, count in self._packed.ranges(offset, length):
                read_exactly(self._fd, at, memoryview(payload)[done : done + count])
                done += count
        except BundleError:
            raise SourceChangedError(f"{self.path} became shorter while it was offered") from None
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror or os.strerror(error.errno or 0)}") from error
        self.check()
        if not tree:
            return frames.encode(index, offset, payload)
        digest = chunk_root(payload)
        self._record(index, digest)
        return frames.encode(index, offset, payload, digest=digest, checksum=False)
