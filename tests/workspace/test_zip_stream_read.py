"""Extraction by `unzip_stream`: archives of `zip_stream`, `zipfile` and Info-ZIP `zip`, in chunks of any sizes."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from zcell.errors import BundleError
from zcell.workspace import deflate
from zcell.workspace.names import fold
from zcell.workspace.zipstream import ZipEntry, unzip_stream, zip_stream

NS = 1_000_000_000
MIB = 1024 * 1024
CHUNKINGS: dict[str, Callable[[bytes], Iterator[bytes | memoryview]]] = {
    "whole": lambda data: iter([data]),
    "bytes": lambda data: (data[at : at + 1] for at in range(len(data))),
    "sevens": lambda data: (memoryview(data)[at : at + 7] for at in range(0, len(data), 7)),
    "with empty ones": lambda data: (part for at in range(0, len(data), 4096) for part in (b"", data[at : at + 4096])),
}


def zip_program() -> str:
    program = shutil.which("zip")
    assert program, "these tests need Info-ZIP zip: install the package `zip`"
    return program


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Mode, whole seconds of mtime, and contents of everything below `root`."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.stat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns // NS, data)
    return found


@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_everything_survives_whatever_the_chunks_are(tmp_path: Path, chunking: str) -> None:
    source = tmp_path / "noise"
    source.write_bytes(os.urandom(300_000))
    text = tmp_path / "text"
    text.write_bytes(b"some text\n" * 50_000)
    entries = [
        ZipEntry("d", None, 0o750, 1_000_000_001 * NS, is_dir=True),
        ZipEntry("d/noise", source, 0o640, 1_000_000_003 * NS),
        ZipEntry("d/text", text, 0o444, 1_000_000_005 * NS),
        ZipEntry("größe/日本語", b"abc" * 100, 0o711, -5 * NS),
        ZipEntry("zero", b"", 0o000, 0),
        ZipEntry("sealed", None, 0o555, 7 * NS, is_dir=True),
        ZipEntry("sealed/inside", b"x", 0o600, 9 * NS),
    ]
    data = b"".join(zip_stream(entries))
    found = unzip_stream(CHUNKINGS[chunking](data), tmp_path / "out")
    assert (found.files, found.directories, found.archive_bytes) == (5, 2, len(data))
    tree = snapshot(tmp_path / "out")
    del tree["größe"]
    assert tree == {
        "d": (0o750, 1_000_000_001, None),
        "d/noise": (0o640, 1_000_000_003, source.read_bytes()),
        "d/text": (0o444, 1_000_000_005, text.read_bytes()),
        "größe/日本語": (0o711, -5, b"abc" * 100),
        "zero": (0, 0, b""),
        "sealed": (0o555, 7, None),
        "sealed/inside": (0o600, 9, b"x"),
    }


NAMES = st.text(alphabet="abcé日 .-", min_size=1, max_size=6).filter(lambda part: part.strip(". ") != "")
FILES = st.tuples(st.binary(max_size=400) | st.binary(max_size=40).map(lambda data: data * 100), st.integers(0, 0o777))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), FILES, max_size=8),
    st.integers(1, 600),
    st.integers(-(1 << 31), (1 << 31) - 1),
)
def test_any_tree_round_trips(files: dict[str, tuple[bytes, int]], chunk_bytes: int, mtime: int) -> None:
    kept: dict[str, tuple[bytes, int]] = {}
    seen: set[str] = set()
    for name, content in files.items():
        folded = fold(name)
        if any(f"{other}/".startswith(f"{folded}/") or f"{folded}/".startswith(f"{other}/") for other in seen):
            continue
        if any(fold(a) == fold(b) and a != b for a in _above(name) for other in kept for b in _above(other)):
            continue
        seen.add(folded)
        kept[name] = content
    entries = [ZipEntry(name, data, mode, mtime * NS) for name, (data, mode) in kept.items()]
    archive = b"".join(zip_stream(entries))
    with zipfile.ZipFile(io.BytesIO(archive)) as oracle:
        assert {info.filename: oracle.read(info) for info in oracle.infolist()} == {n: d for n, (d, _) in kept.items()}
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        unzip_stream((archive[at : at + chunk_bytes] for at in range(0, len(archive), chunk_bytes)), out)
        found = {name: value for name, value in snapshot(out).items() if value[2] is not None}
    assert found == {name: (mode, mtime, data) for name, (data, mode) in kept.items()}


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small workspace with what archivers get wrong."""
    root = tmp_path / "tree"
    (root / "empty").mkdir(parents=True, mode=0o711)
    (root / "sub").mkdir()
    (root / "noise").write_bytes(os.urandom(500_000))
    (root / "sub/text").write_bytes(b"line\n" * 100_000)
    (root / "zero").touch()
    (root / "größe").write_bytes(b"umlaut")
    (root / "sub/script").write_bytes(b"#!/bin/sh\n")
    (root / "sub/script").chmod(0o751)
    for path in (*root.rglob("*"), root):
        os.utime(path, (1_500_000_001, 1_500_000_001))
    return root


@pytest.mark.parametrize("options", [["-r"], ["-r", "-0"], ["-r", "-fd"], ["-r", "-fz"], ["-r", "-9", "-D"]])
def test_archives_of_info_zip_are_read(tmp_path: Path, tree: Path, options: list[str]) -> None:
    archive = tmp_path / "foreign.zip"
    subprocess.run([zip_program(), "-q", *options, archive, "."], cwd=tree, check=True, timeout=60)
    unzip_stream([archive.read_bytes()], tmp_path / "out")
    expected = snapshot(tree)
    if "-D" in options:  # no entries for directories: those with files are implied
        del expected["empty"]
        expected["sub"] = snapshot(tmp_path / "out")["sub"]
    assert snapshot(tmp_path / "out") == expected


def test_an_archive_that_info_zip_has_streamed_is_read(tmp_path: Path, tree: Path) -> None:
    command = [zip_program(), "-qr", "-", "."]
    streamed = subprocess.run(command, cwd=tree, check=True, timeout=60, stdout=subprocess.PIPE).stdout
    unzip_stream([streamed], tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tree)


@pytest.mark.parametrize("option", ["-y", "-e"])
def test_links_and_encryption_of_info_zip_are_refused(tmp_path: Path, tree: Path, option: str) -> None:
    (tree / "link").symlink_to("/etc/passwd")
    archive = tmp_path / "foreign.zip"
    options = [option] if option == "-y" else [option, "-P", "password"]
    subprocess.run([zip_program(), "-qr", *options, archive, "."], cwd=tree, check=True, timeout=60)
    with pytest.raises(BundleError, match="link" if option == "-y" else "encrypted"):
        unzip_stream([archive.read_bytes()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Unseekable(io.RawIOBase):
    """What makes zipfile write data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("zip64", [True, False])
def test_archives_of_zipfile_are_read(tmp_path: Path, tree: Path, streamed: bool, zip64: bool) -> None:
    target = Unseekable() if streamed else io.BytesIO()
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write((tree / name).read_bytes())
    data = bytes(target.data) if isinstance(target, Unseekable) else target.getvalue()
    unzip_stream([data], tmp_path / "out")
    found = snapshot(tmp_path / "out")
    assert {name: found[name][2] for name in names} == {name: (tree / name).read_bytes() for name in names}


def test_stored_entries_of_unknown_size_are_refused_with_the_reason(tmp_path: Path) -> None:
    target = Unseekable()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("streamed", b"contents")
    with pytest.raises(BundleError, match="'streamed' is refused: it is stored with its size behind it"):
        unzip_stream([bytes(target.data)], tmp_path / "out")


def test_a_comment_is_read_over(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("f", b"x")
        archive.comment = b"PK\5\6 a comment " * 100
    assert unzip_stream([target.getvalue()], tmp_path / "out").files == 1


def test_a_date_without_extended_timestamp_is_local_time_and_nonsense_is_ignored(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo("dated", (2020, 1, 2, 3, 4, 6)), b"x")
        archive.writestr(zipfile.ZipInfo("undated", (1980, 0, 0, 0, 0, 0)), b"x")
    unzip_stream([target.getvalue()], tmp_path / "out")
    assert time_of(tmp_path / "out/dated") == (2020, 1, 2, 3, 4, 6)
    assert time_of(tmp_path / "out/undated")[0] >= 2024


def time_of(path: Path) -> tuple[int, ...]:
    return tuple(time.localtime(path.stat().st_mtime)[:6])


@pytest.mark.parametrize(("packer", "unpacker"), [("isal", "zlib"), ("zlib", "isal"), ("zlib", "zlib")])
def test_both_deflate_libraries_read_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packer: str, unpacker: str
) -> None:
    libraries = {"isal": isal_zlib, "zlib": zlib}
    source = tmp_path / "file"
    source.write_bytes(b"contents " * 200_000)
    entries = [ZipEntry("streamed", source, 0o600, 0), ZipEntry("whole", b"small " * 100, 0o600, 0)]
    monkeypatch.setattr(deflate, "_codec", libraries[packer])
    monkeypatch.setattr(deflate, "_LEVEL", 1)
    data = b"".join(zip_stream(entries))
    assert len(data) < 100_000
    monkeypatch.setattr(deflate, "_codec", libraries[unpacker])
    for size in (1, 13, 1 << 20):
        unzip_stream((data[at : at + size] for at in range(0, len(data), size)), tmp_path / f"out{size}")
        assert (tmp_path / f"out{size}/streamed").read_bytes() == source.read_bytes()
        assert (tmp_path / f"out{size}/whole").read_bytes() == b"small " * 100


def test_an_existing_empty_destination_keeps_its_mode(tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir(mode=0o710)
    to.chmod(0o2710)
    unzip_stream(zip_stream([ZipEntry("f", b"x", 0o600, 0)]), to)
    assert stat.S_IMODE(to.stat().st_mode) == 0o2710
    assert (to / "f").read_bytes() == b"x"
    assert list(tmp_path.iterdir()) == [to]


def test_archiving_and_extracting_are_one_pipeline(tmp_path: Path) -> None:
    """A file larger than all buffers goes through, one chunk at a time."""
    source = tmp_path / "big"
    source.write_bytes(os.urandom(MIB) * 20)
    unzip_stream(zip_stream([ZipEntry("big", source, 0o600, 0)]), tmp_path / "out")
    assert (tmp_path / "out/big").read_bytes() == source.read_bytes()
