"""A file that is being fetched. Invariant: the final name appears only with the whole, verified content.

Until then there are ``NAME.part``, with the chunks, and ``NAME.part.journal``, which says which of them are verified. A lock on the
journal keeps a second download away; it goes with the process. After a reboot of the host, pages that were never written
back may be missing, so the chunks are hashed again before they are believed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from pathlib import Path

from zcell._native import chunk as frames
from zcell.download.sealing import Frame
from zcell.download.sinks import SinkError, SinkEvents
from zcell.errors import ProtocolError
from zcell.protocol.transfer.chunks import NO_DIGEST, ChunkTable, chunk_length
from zcell.protocol.transfer.journal import HEADER_BYTES, Journal, JournalHeader, decode_journal, encode_record
from zcell.protocol.transfer.messages import Description

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_UNFINISHED_MODE = 0o600


def boot_id() -> bytes:
    """What identifies this run of the host's kernel; b"" where it cannot be told, which means: hash again."""
    try:
        return hashlib.sha256(_BOOT_ID.read_bytes()).digest()
    except OSError:
        return b""


class FileSink:
    """Fetches to `to`: a file name, or an existing directory in which the owner's name for the object is used.

    `resume=False` forgets what an earlier try left. With `exact` `to` is the name of the file, and a directory there is refused.
    `mode` (permission bits) and `mtime_ns` (since 1970) are those of the complete file; until then one with a mode is the owner's.
    """

    def __init__(
        self, to: Path, *, resume: bool, exact: bool = False, mode: int | None = None, mtime_ns: int | None = None
    ) -> None:
        self._to = to
        self._resume = resume
        self._exact = exact
        self._mode = mode
        self._mtime_ns = mtime_ns
        self._part_fd = -1
        self._journal_fd = -1
        self._check = b""
        self._lock = threading.Lock()
        self.path = to
        """The final name, known after `prepare`."""

    # --- preparing ---------------------------------------------------------------------------------------------------------

    def prepare(self, description: Description, verify: str, ref_id: str, events: SinkEvents) -> ChunkTable:
        return self._begin(description, verify, ref_id)

    def _begin(self, description: Description, verify: str, ref_id: str) -> ChunkTable:
        self.path = self._final_path(description.name, ref_id)
        self._part = self.path.with_name(self.path.name + ".part")
        self._journal_path = self.path.with_name(self.path.name + ".part.journal")
        self._lock_journal()
        self._part_fd = self._open_part()
        header = JournalHeader(
            description.chunk_bytes,
            description.size,
            description.root,
            hashlib.sha256(ref_id.encode()).digest(),
            boot_id(),
            verify,
        )
        old = self._read_journal() if self._resume else None
        held = ChunkTable()
        if old is not None and _continues(old.header, header):
            held = self._trustworthy(old, header)
        if held.count:
            self._continue(old, header, held)
        else:
            os.ftruncate(self._part_fd, 0)
            self._rewrite_journal(header, held)
        return held

    def begin_unverified(self, description: Description, ref_id: str) -> None:
        """Get ready for bytes in order that have no digests; what an earlier try left is forgotten."""
        self._resume = False
        self._begin(description, "tree", ref_id)

    def write_at(self, offset: int, data: bytes | memoryview) -> int:
        """Write bytes that have no digests; how many."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(self._part_fd, view[done:], offset + done)
        return done

    def _final_path(self, name: str, ref_id: str) -> Path:
        path = self._to
        if not self._exact and path.is_dir():
            path = path / _safe_name(name, ref_id)
        if path.is_dir():
            raise _directory_at(path)
        if not path.parent.is_dir():
            raise SinkError(f"directory {path.parent} does not exist; create it first")
        return path

    def _open_part(self) -> int:
        """Open the part file; when that is refused, no journal is left that was not there before."""
        try:
            return _open_regular(self._part, 0o666 if self._mode is None else _UNFINISHED_MODE)
        except (SinkError, OSError):
            if not os.fstat(self._journal_fd).st_size:
                self._journal_path.unlink(missing_ok=True)
            raise

    def _lock_journal(self) -> None:
        while True:
            fd = _open_regular(self._journal_path, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:
                    self._journal_fd = fd
                    return
            except BlockingIOError:
                os.close(fd)
                raise SinkError(f"another download to {self.path} is running; wait for it or choose another name") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its last owner finished and removed it meanwhile

    def _read_journal(self) -> Journal | None:
        size = os.fstat(self._journal_fd).st_size
        try:
            return decode_journal(os.pread(self._journal_fd, size, 0)) if size else None
        except ProtocolError:
            return None

    def _trustworthy(self, old: Journal, header: JournalHeader) -> ChunkTable:
        """The chunks of `old` that the part file really holds."""
        held, here = old.table, os.fstat(self._part_fd).st_size
        rebooted = not header.boot_id or old.header.boot_id != header.boot_id
        for index in list(held.held_from(0)):
            length = header.chunk_bytes if header.size is None else chunk_length(index, header.size, header.chunk_bytes)
            offset = index * header.chunk_bytes
            if header.size is None:
                length = max(0, min(length, here - offset))
            if length <= 0 or offset + length > here or (rebooted and not self._is_intact(held, index, offset, length)):
                held.drop(index)
        return held

    def _is_intact(self, held: ChunkTable, index: int, offset: int, length: int) -> bool:
        try:
            return frames.read_chunk(self._part_fd, index, offset, length, checksum=False)[1] == held.digest(index)
        except (OSError, EOFError):
            return False

    def _continue(self, old: Journal | None, header: JournalHeader, held: ChunkTable) -> None:
        assert old is not None
        if old.header == header and held.count == old.table.count:
            os.ftruncate(self._journal_fd, old.sound_bytes)
            os.lseek(self._journal_fd, 0, os.SEEK_END)
            self._check = header.check
        else:
            self._rewrite_journal(header, held)

    def _rewrite_journal(self, header: JournalHeader, held: ChunkTable) -> None:
        self._check = header.check
        data = bytearray(header.encode())
        assert len(data) == HEADER_BYTES
        for index in held.held_from(0):
            data += encode_record(self._check, index, held.digest(index) or NO_DIGEST)
        os.ftruncate(self._journal_fd, 0)
        os.lseek(self._journal_fd, 0, os.SEEK_SET)
        self._append(bytes(data))

    def _append(self, data: bytes) -> None:
        with self._lock:  # a record is whole or it is the torn last one
            view = memoryview(data)
            while view:
                view = view[os.write(self._journal_fd, view) :]

    # --- storing -----------------------------------------------------------------------------------------------------------

    def store(self, frame: Frame, index: int, *, tree: bool, max_length: int) -> tuple[int, bytes]:
        chunk = frames.store(self._part_fd, frame, tree=tree, max_length=max_length, expect_index=index)
        digest = (chunk.digest if tree else None) or NO_DIGEST
        self._append(encode_record(self._check, index, digest))
        return chunk.length, digest

    def drop(self, indices: tuple[int, ...]) -> None:
        self._append(b"".join(encode_record(self._check, index, NO_DIGEST, dropped=True) for index in indices))

    def publish(self, size: int) -> bool:
        if os.fstat(self._part_fd).st_size != size:
            os.ftruncate(self._part_fd, size)
        self._stamp()
        try:
            self._part.replace(self.path)  # that very name: a link there is replaced, a directory refuses
        except OSError as error:
            if self._mode is not None:
                os.fchmod(self._part_fd, _UNFINISHED_MODE)  # so that the next try can go on with it
            raise _directory_at(self.path) if isinstance(error, IsADirectoryError) else error from None
        self._journal_path.unlink(missing_ok=True)
        self.close()
        return True

    def _stamp(self) -> None:
        if self._mtime_ns is not None:
            os.utime(self._part_fd, ns=(self._mtime_ns, self._mtime_ns))
        if self._mode is not None:
            with contextlib.suppress(PermissionError):  # a file system that has no modes
                os.fchmod(self._part_fd, self._mode)

    def close(self) -> None:
        part_fd, self._part_fd = self._part_fd, -1
        journal_fd, self._journal_fd = self._journal_fd, -1
        for fd in (part_fd, journal_fd):  # the lock goes last
            if fd >= 0:
                os.close(fd)


def _open_regular(path: Path, mode: int) -> int:
    """Open or make a file for an unfinished download. Raises `SinkError` for what is no regular file: it is never followed."""
    try:
        fd = os.open(path, _FLAGS, mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    else:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    raise SinkError(f"{path} is in the way: an unfinished download needs that name, and it is no regular file; move it away")


def _directory_at(path: Path) -> SinkError:
    return SinkError(f"{path} is a directory; give the file another name, or move the directory away")


def _continues(old: JournalHeader, new: JournalHeader) -> bool:
    """Whether chunks verified under `old` may count under `new`; the digests are compared with the sender's in the end.

    Chunks that were checked by checksum alone cannot be compared, so they count only for the very same ref, or the same digest.
    """
    if old.chunk_bytes != new.chunk_bytes or (old.size is not None and new.size is not None and old.size != new.size):
        return False
    if new.verify == "tree":
        return old.verify == "tree"
    same_object = old.ref_key == new.ref_key or (old.root is not None and old.root == new.root)
    return same_object and (old.verify == "tree" or old.boot_id == new.boot_id != b"")


def _safe_name(name: str, ref_id: str) -> str:
    """The owner's name for the object if it is a plain file name, else the ref id."""
    plain = name and name not in (".", "..") and "/" not in name and "\0" not in name and len(os.fsencode(name)) <= 240
    return name if plain else ref_id
