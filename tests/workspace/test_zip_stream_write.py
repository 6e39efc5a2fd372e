"""Archives made by `zip_stream`: read by `zipfile` and Info-ZIP `unzip`, in bounded memory, with everything an entry has."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from zcell.errors import BundleError
from zcell.workspace.zipstream import ZipEntry, zip_stream
from zcell.workspace.zipwriter import CHUNK_BYTES, WHOLE_BYTES, dos_time

MIB = 1024 * 1024
NS = 1_000_000_000
TEXT = b"a line of text that deflates well\n"


def unzip_program() -> str:
    program = shutil.which("unzip")
    assert program, "these tests need Info-ZIP unzip: install the package `unzip`"
    return program


def written(tmp_path: Path, entries: list[ZipEntry]) -> zipfile.ZipFile:
    """The archive of `entries`, already found good by `unzip -t` and by zipfile."""
    path = tmp_path / "archive.zip"
    path.write_bytes(b"".join(zip_stream(entries)))
    if entries:
        result = subprocess.run([unzip_program(), "-tq", path], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "No errors" in result.stdout
    archive = zipfile.ZipFile(path)
    assert archive.testzip() is None
    return archive


def file_entry(path: Path, data: bytes, name: str | None = None) -> ZipEntry:
    path.write_bytes(data)
    return ZipEntry(name or path.name, path, 0o644, 0)


def test_an_archive_of_nothing_is_an_archive(tmp_path: Path) -> None:
    with written(tmp_path, []) as archive:
        assert archive.namelist() == []


@pytest.mark.parametrize(
    "size", [0, 1, 100, 64 * 1024, 64 * 1024 + 1, WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + 1, MIB + 1, 5 * MIB]
)
@pytest.mark.parametrize("compressible", [True, False])
@pytest.mark.parametrize("kind", ["path", "bytes", "opener"])
def test_contents_of_every_size_and_source(tmp_path: Path, size: int, compressible: bool, kind: str) -> None:
    data = (TEXT * (size // len(TEXT) + 1))[:size] if compressible else os.urandom(size)
    path = tmp_path / "file"
    entry = file_entry(path, data)
    if kind == "bytes":
        entry = ZipEntry("file", data, 0o644, 0)
    elif kind == "opener":
        entry = ZipEntry("file", lambda: os.open(path, os.O_RDONLY), 0o644, 0)
    with written(tmp_path, [entry, ZipEntry("behind", b"it", 0o600, 0)]) as archive:
        assert archive.read("file") == data
        assert archive.read("behind") == b"it"
        info = archive.getinfo("file")
        assert info.file_size == size
        expected = zipfile.ZIP_DEFLATED if compressible and size >= 100 else zipfile.ZIP_STORED
        assert info.compress_type == expected
        # only what is read in pieces needs a descriptor
        assert bool(info.flag_bits & 8) == (kind != "bytes" and size > WHOLE_BYTES)


def test_modes_times_and_kinds(tmp_path: Path) -> None:
    entries = [
        ZipEntry("dir", None, 0o2751, 1_234_567_891 * NS, is_dir=True),
        ZipEntry("dir/script", b"#!/bin/sh\n", 0o4755, 1_600_000_001 * NS + 999_999_999),
        ZipEntry("dir/empty", None, 0o700, 0, is_dir=True),
    ]
    with written(tmp_path, entries) as archive:
        directory, script, empty = archive.infolist()
        assert [info.filename for info in archive.infolist()] == ["dir/", "dir/script", "dir/empty/"]
        assert directory.external_attr == (stat.S_IFDIR | 0o751) << 16 | 0x10
        assert script.external_attr == (stat.S_IFREG | 0o755) << 16
        assert empty.is_dir()
        assert script.create_system == 3
        assert script.extra == b"UT\5\0\1" + (1_600_000_001).to_bytes(4, "little")
        assert script.date_time == (2020, 9, 13, 12, 26, 40)
    subprocess.run([unzip_program(), "-qq", tmp_path / "archive.zip", "-d", tmp_path / "out"], check=True, timeout=60)
    assert (tmp_path / "out/dir/script").stat().st_mtime == 1_600_000_001
    assert stat.S_IMODE((tmp_path / "out/dir/script").stat().st_mode) == 0o755
    assert (tmp_path / "out/dir/empty").is_dir()


@pytest.mark.parametrize(
    ("seconds", "date", "field"),
    [
        (0, (1980, 1, 1, 0, 0, 0), 0),
        (-(1 << 40), (1980, 1, 1, 0, 0, 0), -(1 << 31)),
        (-1, (1980, 1, 1, 0, 0, 0), -1),
        (315532801, (1980, 1, 1, 0, 0, 0), 315532801),
        (4354819199, (2107, 12, 31, 23, 59, 58), (1 << 31) - 1),
        (1 << 45, (2107, 12, 31, 23, 59, 58), (1 << 31) - 1),
    ],
)
def test_times_outside_what_the_format_holds_are_clamped(
    tmp_path: Path, seconds: int, date: tuple[int, ...], field: int
) -> None:
    with written(tmp_path, [ZipEntry("f", b"", 0o600, seconds * NS)]) as archive:
        info = archive.getinfo("f")
        assert info.date_time == date
        assert info.extra[5:] == field.to_bytes(4, "little", signed=True)
    assert dos_time(seconds) >> 25 == date[0] - 1980


def test_names_beyond_ascii_are_flagged_as_utf8(tmp_path: Path) -> None:
    names = ["größe/日本語.txt", "plain", "x" * 255, "/".join(["d" * 200] * 15)]
    with written(tmp_path, [ZipEntry(name, name.encode(), 0o600, 0) for name in names]) as archive:
        assert archive.namelist() == names
        assert [bool(info.flag_bits & 0x800) for info in archive.infolist()] == [True, False, False, False]


def test_chunks_are_about_one_mebibyte_whatever_the_entries_are(tmp_path: Path) -> None:
    entries = [file_entry(tmp_path / "big", os.urandom(5 * MIB)), ZipEntry("memory", os.urandom(3 * MIB), 0o600, 0)]
    entries += [ZipEntry(f"small{number}", b"", 0o600, 0) for number in range(20_000)]
    sizes = [len(chunk) for chunk in zip_stream(entries)]
    assert all(CHUNK_BYTES <= size < 2 * CHUNK_BYTES for size in sizes[:-1])


def test_files_are_opened_when_their_turn_comes(tmp_path: Path) -> None:
    first = file_entry(tmp_path / "first", os.urandom(3 * MIB))
    second = ZipEntry("second", tmp_path / "second", 0o644, 0)
    stream = zip_stream([first, second])
    assert next(stream)
    with pytest.raises(FileNotFoundError, match="second"):
        list(stream)


@pytest.mark.parametrize("name", ["../up", "/absolute", "a\\b", "", "a//b", "bad\udcff", "nul"])
def test_a_name_that_no_reader_should_accept_is_not_written(name: str) -> None:
    with pytest.raises(BundleError, match="refused"):
        list(zip_stream([ZipEntry(name, b"", 0o600, 0)]))


def test_names_that_clash_are_not_written() -> None:
    with pytest.raises(BundleError, match=r"'README'.*differs from 'readme'"):
        list(zip_stream([ZipEntry("readme", b"", 0o600, 0), ZipEntry("README", b"", 0o600, 0)]))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.write_bytes(b"secret")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic links"):
        list(zip_stream([ZipEntry("link", tmp_path / "link", 0o600, 0)]))
    for name in ("pipe", "."):
        with pytest.raises(BundleError, match="'entry' is refused: its source is not a regular file"):
            list(zip_stream([ZipEntry("entry", tmp_path / name, 0o600, 0)]))


def test_a_directory_has_no_source_and_a_file_has_one() -> None:
    with pytest.raises(ValueError, match="'d': a directory has no source"):
        ZipEntry("d", b"data", 0o755, 0, is_dir=True)
    with pytest.raises(ValueError, match="'f': a directory has no source"):
        ZipEntry("f", None, 0o755, 0)


def change_while_read(path: Path, entries: list[ZipEntry], size: int, reported: list[tuple[str, int, int]]) -> bytes:
    """Streams `entries`, changing the size of `path` after the first chunk."""
    stream = zip_stream(entries, on_resized=lambda *what: reported.append(what))
    parts = [next(stream)]
    os.truncate(path, size)
    return b"".join([*parts, *stream])


@pytest.mark.parametrize("size", [4 * MIB, 9 * MIB])
def test_a_deflated_file_that_changes_size_is_archived_as_read_and_reported(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    before = file_entry(tmp_path / "noise", os.urandom(2 * MIB))
    head = bytes(range(256)) * 1024 + os.urandom(2 * MIB) + bytes(5 * MIB)
    entry = file_entry(path, head)
    reported: list[tuple[str, int, int]] = []
    data = change_while_read(path, [entry, before], size, reported)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("log").file_size == size
    assert reported == [("log", len(head), size)]


@pytest.mark.parametrize("size", [3 * MIB, 9 * MIB])
def test_a_stored_file_that_changes_size_ends_the_archive(tmp_path: Path, size: int) -> None:
    path = tmp_path / "noise"
    entry = file_entry(path, os.urandom(6 * MIB))
    with pytest.raises(BundleError, match="'noise' is refused: it changed size while it was read, from 6291456 bytes"):
        change_while_read(path, [entry], size, [])


def test_a_small_file_longer_than_its_size_says_is_archived_whole() -> None:
    """As files below /proc are, which all say 0 bytes, and any file that grows between two system calls."""
    reported: list[tuple[str, int, int]] = []
    entry = ZipEntry("cpuinfo", Path("/proc/cpuinfo"), 0o600, 0)
    data = b"".join(zip_stream([entry], on_resized=lambda *what: reported.append(what)))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert b"processor" in archive.read("cpuinfo")
        assert reported == [("cpuinfo", 0, archive.getinfo("cpuinfo").file_size)]


def test_an_abandoned_stream_closes_its_file(tmp_path: Path) -> None:
    entry = file_entry(tmp_path / "big", os.urandom(5 * MIB))
    stream = zip_stream([entry])
    next(stream)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    stream.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 1


def test_several_streams_run_in_several_threads(tmp_path: Path) -> None:
    entries = [file_entry(tmp_path / f"f{number}", TEXT * 20_000) for number in range(4)]
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(b"".join(zip_stream(entries)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
