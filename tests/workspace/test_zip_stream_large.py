"""Archives beyond the limits of the first ZIP format: 100,000 entries, files above 4 GiB; and memory that does not grow."""

from __future__ import annotations

import os
import shutil
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from zcell.errors import BundleError
from zcell.workspace.limits import ExtractLimits
from zcell.workspace.treewriter import TreeWriter
from zcell.workspace.zipreader import unzip_into
from zcell.workspace.zipstream import Extracted, ZipEntry, zip_stream

MIB = 1 << 20
GIB = 1 << 30
ZEROS = bytes(2 * MIB)
UNBOUNDED = ExtractLimits(ratio=1 << 20)


class NowhereTree(TreeWriter):
    """A fake tree whose files are /dev/null, because gigabytes and 100,000 files on disk would test only the disk."""

    def create_file(self, parts: tuple[str, ...]) -> int:
        return os.open("/dev/null", os.O_WRONLY)

    def finish_file(self, fd: int, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        os.close(fd)

    def set_mode(self, parts: tuple[str, ...], mode: int) -> None:
        assert mode & 0o777 == 0o644


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[TreeWriter]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with NowhereTree(fd) as tree:
        yield tree
    os.close(fd)


def save_sparsely(chunks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """Writes an archive, leaving out what is all zeros, and passes it on."""
    with path.open("wb") as file:
        for chunk in chunks:
            if chunk == ZEROS[: len(chunk)]:
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)
            yield chunk


def unzip_test(path: Path, *names: str) -> None:
    program = shutil.which("unzip")
    assert program, "these tests need Info-ZIP unzip: install the package `unzip`"
    result = subprocess.run([program, "-tqq", path, *names], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr


def giant(size: int, head: bytes) -> Callable[[], int]:
    """Opens a file of `size` bytes, zeros after `head`, in memory: reading a hole there costs neither disk nor page cache."""

    def opened() -> int:
        fd = os.memfd_create("giant")
        os.write(fd, head)
        os.truncate(fd, size)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    return opened


def test_100_000_entries(tmp_path: Path, nowhere: TreeWriter) -> None:
    entries = (ZipEntry(f"d{number % 100}/{number}", b"%d" % number, 0o644, 10**18) for number in range(100_000))
    path = tmp_path / "archive.zip"
    found = unzip_into(save_sparsely(zip_stream(entries), path), nowhere, UNBOUNDED)
    assert (found.files, found.directories) == (100_000, 0)
    unzip_test(path)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 100_000
        assert archive.read("d99/99999") == b"99999"


def test_a_stored_file_above_4_gib_and_what_comes_after_it(tmp_path: Path, nowhere: TreeWriter) -> None:
    """Noise at its beginning makes the probe store it."""
    size = 4 * GIB + 12345
    entries = [ZipEntry("giant", giant(size, os.urandom(MIB)), 0o644, 0), ZipEntry("after", b"after it", 0o644, 0)]
    path = tmp_path / "archive.zip"
    found = unzip_into(save_sparsely(zip_stream(entries), path), nowhere, UNBOUNDED)
    assert found == Extracted(files=2, directories=0, written_bytes=size + 8, archive_bytes=path.stat().st_size)
    unzip_test(path, "after")
    with zipfile.ZipFile(path) as archive:
        big, after = archive.infolist()
        assert (big.compress_type, big.file_size, big.compress_size) == (zipfile.ZIP_STORED, size, size)
        assert after.header_offset > size
        assert archive.read("after") == b"after it"


def test_a_deflated_file_above_4_gib(tmp_path: Path, nowhere: TreeWriter) -> None:
    size = 4 * GIB + 12345
    path = tmp_path / "archive.zip"
    entries = [ZipEntry("giant", giant(size, b""), 0o644, 0), ZipEntry("after", b"after it", 0o644, 0)]
    found = unzip_into(save_sparsely(zip_stream(entries), path), nowhere, UNBOUNDED)
    assert found.written_bytes == size + 8
    with zipfile.ZipFile(path) as archive:
        big, _ = archive.infolist()
        assert (big.compress_type, big.file_size) == (zipfile.ZIP_DEFLATED, size)
        assert archive.read("after") == b"after it"


def test_the_default_limits_stop_such_a_bomb_early(nowhere: TreeWriter) -> None:
    source = giant(256 * MIB, b"")
    with pytest.raises(BundleError, match="'giant' is refused: with it the archive expands to more than 250 times"):
        unzip_into(zip_stream([ZipEntry("giant", source, 0o644, 0)]), nowhere, ExtractLimits())


def test_memory_stays_bounded_both_ways(tmp_path: Path, nowhere: TreeWriter) -> None:
    noise, text = tmp_path / "noise", tmp_path / "text"
    noise.write_bytes(os.urandom(MIB) * 48)
    text.write_bytes(b"a line of text\n" * (3 * MIB))
    entries = [ZipEntry("noise", noise, 0o644, 0), ZipEntry("text", text, 0o644, 0)]
    tracemalloc.start()
    try:
        found = unzip_into(zip_stream(entries), nowhere, UNBOUNDED)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.written_bytes == 93 * MIB
    assert peak < 8 * MIB
