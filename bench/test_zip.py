"""ZIP streams against zipfile on the same trees, both writing to and reading from memory, extracting to tmpfs."""

from __future__ import annotations

import io
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Against

from zcell.workspace.zipstream import ZipEntry, unzip_stream, zip_stream

MIB = 1024 * 1024
WORDS = [b"import os\n", b"def train(model, data):\n", b"    return loss\n", b"alpha ", b"beta ", b"0.12345, "]


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield path
    shutil.rmtree(path)


def make_tree(place: Path, kind: str, scale: int = 1) -> list[ZipEntry]:
    """`small`: 1,000 text files for each unit of scale; `noise`: 10 incompressible files of 2 MiB; `text`: 4 files of 5 MiB."""
    chance = random.Random(1)
    sizes = {
        "small": [chance.randrange(100, 8000) for _ in range(1000 * scale)],
        "noise": [2 * MIB] * 10,
        "text": [5 * MIB] * 4,
    }
    entries = []
    for number, size in enumerate(sizes[kind]):
        path = place / f"source/{number // 100}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = b"".join(chance.choices(WORDS, k=size // 10))
        path.write_bytes(os.urandom(size) if kind == "noise" else text)
        entries.append(ZipEntry(f"{number // 100}/{number}", path, 0o644, 10**18))
    return entries


def total(entries: list[ZipEntry]) -> int:
    return sum(entry.source.stat().st_size for entry in entries if isinstance(entry.source, Path))


def by_zipfile(entries: list[ZipEntry]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.write(str(entry.source), entry.name)
    return target.getvalue()


@pytest.mark.parametrize("kind", ["small", "noise", "text"])
def test_writing(against: Against, place: Path, kind: str) -> None:
    entries = make_tree(place, kind)
    against(f"zip_stream, {kind}", total(entries), "zipfile", lambda: by_zipfile(entries), lambda: list(zip_stream(entries)))


@pytest.mark.parametrize("kind", ["small", "noise", "text"])
def test_reading(against: Against, place: Path, kind: str) -> None:
    entries = make_tree(place, kind)
    chunks = list(zip_stream(entries))
    archive = b"".join(chunks)
    out = place / "out"

    def plain() -> None:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            opened.extractall(out)
        shutil.rmtree(out)

    def stream() -> None:
        unzip_stream(chunks, out)
        shutil.rmtree(out)

    against(f"unzip_stream, {kind}", total(entries), "zipfile", plain, stream)


@pytest.mark.parametrize("scale", [4, 16])
def test_cost_grows_linearly_with_the_number_of_files(against: Against, place: Path, scale: int) -> None:
    """One tree of `scale` times the files against `scale` times the small tree: a ratio near 1 is linear."""
    few, many = make_tree(place, "small")[:250], make_tree(place / "many", "small", 4)[: 250 * scale]

    def both(entries: list[ZipEntry]) -> None:
        unzip_stream(zip_stream(entries), place / "out")
        shutil.rmtree(place / "out")

    against(
        f"zip and unzip, {scale} times the files",
        total(many),
        f"{scale} small trees",
        lambda: [both(few) for _ in range(scale)],
        lambda: both(many),
    )
