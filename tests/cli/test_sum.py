"""`zcell sum`."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import events, json_lines, zcell
from zcell.digest import Digest


def test_it_prints_the_digest_that_transfers_are_verified_with(tmp_path: Path) -> None:
    contents = {"a": b"", "b": b"hello", "c": os.urandom(3_000_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    done = zcell("sum", *contents, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [f"{Digest.of(content)}  {name}" for name, content in contents.items()]
    assert done.stderr == b""


def test_flat_is_plain_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    assert zcell("sum", "--flat", "f", cwd=tmp_path).stdout.decode() == f"{hashlib.sha256(b'hello').hexdigest()}  f\n"


@pytest.mark.parametrize("flat", [False, True])
def test_a_dash_is_standard_input(flat: bool) -> None:
    data = os.urandom(200_000)
    done = zcell("sum", *(["--flat"] if flat else []), "-", stdin=data)
    expected = hashlib.sha256(data).hexdigest() if flat else str(Digest.of(data))
    assert done.stdout.decode() == f"{expected}  -\n"


@pytest.mark.parametrize("flat", [False, True])
def test_what_cannot_be_read_is_named_and_the_rest_is_still_summed(tmp_path: Path, flat: bool) -> None:
    (tmp_path / "here").write_bytes(b"x")
    done = zcell("sum", *(["--flat"] if flat else []), "missing", "here", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.decode().endswith("  here\n")
    assert done.stdout.count(b"\n") == 1
    assert done.stderr.decode().splitlines() == ["zcell: missing: No such file or directory"]


def test_a_directory_stands_for_every_regular_file_in_it(tmp_path: Path) -> None:
    files = {"d/a": b"1", "d/b/c/e": b"2", "d/b/z": b"", "d/z": b"3"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d" / "round").symlink_to(".")
    (tmp_path / "d" / "link").symlink_to("a")
    os.mkfifo(tmp_path / "d" / "fifo")
    done = zcell("sum", "d", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [f"{Digest.of(content)}  {name}" for name, content in files.items()]


def test_json_has_one_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    done = zcell("sum", "--json", "f", "missing", cwd=tmp_path)
    assert done.returncode == 2
    assert events(done.stdout, "sum") == [{"event": "sum", "path": "f", "digest": str(Digest.of(b"hello")), "bytes": 5}]
    assert [line["event"] for line in json_lines(done.stdout)] == ["sum", "error"]


def test_a_name_that_is_no_utf8_is_passed_through(tmp_path: Path) -> None:
    name = os.fsdecode(b"f\xff")
    (tmp_path / name).write_bytes(b"x")
    done = zcell("sum", name, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith(b"  f\xff\n")
    assert zcell("sum", "--json", name, cwd=tmp_path).returncode == 0


def test_names_are_escaped_so_that_sha256sum_can_check_them(tmp_path: Path) -> None:
    names = ["back\\slash", "new\nline", "return\rto", "all\\\n\r", " plain"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    flat = zcell("sum", "--flat", *names, cwd=tmp_path)
    assert flat.stdout.count(b"\n") == len(names)
    checked = subprocess.run(
        ["sha256sum", "-c", "--quiet"], cwd=tmp_path, input=flat.stdout, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, b"")
    tree = zcell("sum", names[1], cwd=tmp_path)
    assert tree.stdout.decode() == f"\\{Digest.of(names[1].encode())}  new\\nline\n"
