"""ZIP streams against zipfile on the same trees, both writing to and reading from memory."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import pytest

from bench.figure import ratio_at_most
from bench.measure import MIB, Bench, mib_per_second, seconds_of
from bench.place import write_noise, write_texts
from zcell.workspace.zipstream import ZipEntry, unzip_stream, zip_stream

KINDS = ("small text files", "incompressible files", "large text files")
MTIME_NS = 10**18


def _tree(place: Path, kind: str, quick: bool) -> list[ZipEntry]:
    source = place / kind.replace(" ", "-")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    if kind == "small text files":
        write_texts(source, 10 if quick else 1000)
    elif kind == "incompressible files":
        for number in range(1 if quick else 10):
            write_noise(source / str(number), 2 * MIB)
    else:
        for number in range(1 if quick else 4):
            (source / str(number)).write_bytes(b"".join(b"%d: loss %.6f\n" % (line, line**0.5) for line in range(250_000)))
    return _entries(source)


def _entries(source: Path) -> list[ZipEntry]:
    return [ZipEntry(str(p.relative_to(source)), p, 0o644, MTIME_NS) for p in sorted(source.rglob("*")) if p.is_file()]


def _total(entries: list[ZipEntry]) -> int:
    return sum(entry.source.stat().st_size for entry in entries if isinstance(entry.source, Path))


def _by_zipfile(entries: list[ZipEntry]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.write(str(entry.source), entry.name)
    return target.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_writing(bench: Bench, place: Path, kind: str) -> None:
    entries = _tree(place, kind, bench.quick)
    size = _total(entries)
    plain, ours = (lambda: _by_zipfile(entries)), (lambda: list(zip_stream(entries)))
    ratio = sum(map(len, zip_stream(entries))) / size
    note = f"archive {ratio:.0%} of the files, zipfile's {len(_by_zipfile(entries)) / size:.0%}"
    bench.compare(
        f"zip {kind}", "MiB/s", "zipfile", mib_per_second(size, plain), mib_per_second(size, ours), rounds=5, note=note
    )


@pytest.mark.parametrize("kind", KINDS)
def test_reading(bench: Bench, place: Path, kind: str) -> None:
    entries = _tree(place, kind, bench.quick)
    chunks = list(zip_stream(entries))
    archive, size, out = b"".join(chunks), _total(entries), place / "out"

    def plain() -> None:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            opened.extractall(out)
        shutil.rmtree(out)

    def stream() -> None:
        unzip_stream(chunks, out)
        shutil.rmtree(out)

    bench.compare(f"unzip {kind}", "MiB/s", "zipfile", mib_per_second(size, plain), mib_per_second(size, stream))


def test_cost_is_linear_in_files(bench: Bench, place: Path) -> None:
    few = bench.pick(200, 5)
    trees = {scale: place / f"times-{scale}" for scale in (1, 4, 16)}
    for scale, tree in trees.items():
        write_texts(tree, few * scale)

    def milliseconds_a_file(scale: int) -> float:
        def both() -> None:
            unzip_stream(zip_stream(_entries(trees[scale])), place / "out")
            shutil.rmtree(place / "out")

        return seconds_of(both)() * 1e3 / (few * scale)

    once, four, sixteen = bench.interleave(*((lambda scale=scale: milliseconds_a_file(scale)) for scale in trees))
    for scale, samples in ((4, four), (16, sixteen)):
        name = f"cost of zipping and unzipping a file, {scale} times as many"
        bench.add(name, "ms", samples, reference=(f"{few} files", once), targets=[ratio_at_most(1.5)])
