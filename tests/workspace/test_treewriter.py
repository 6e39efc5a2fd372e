"""A tree is written below its directory only, whatever is planted there, and an aborted one leaves nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from zcell.errors import BundleError
from zcell.workspace.treewriter import OPEN_DIRECTORIES, TreeWriter, empty_directory, write_all


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def put(tree: TreeWriter, name: str, data: bytes = b"data", mode: int | None = 0o644, mtime_ns: int | None = None) -> None:
    fd = tree.create_file(tuple(name.split("/")))
    write_all(fd, data)
    tree.finish_file(fd, mode=mode, mtime_ns=mtime_ns)


def test_files_and_directories_get_their_bytes_modes_and_times(root: Path, root_fd: int) -> None:
    with TreeWriter(root_fd) as tree:
        tree.make_dir(("sealed",), mode=0o500, mtime_ns=1_000_000_000_123_456_789)
        put(tree, "sealed/script", b"#!", mode=0o755, mtime_ns=1_500_000_000_000_000_001)
        put(tree, "implied/below/file", b"", mode=0o400)
        tree.make_dir(("implied",), mode=0o711)
        tree.make_dir(("empty",))
    assert stat.S_IMODE((root / "sealed").stat().st_mode) == 0o500
    assert (root / "sealed").stat().st_mtime_ns == 1_000_000_000_123_456_789
    script = (root / "sealed/script").stat()
    assert (stat.S_IMODE(script.st_mode), script.st_mtime_ns) == (0o755, 1_500_000_000_000_000_001)
    assert stat.S_IMODE((root / "implied/below/file").stat().st_mode) == 0o400
    assert stat.S_IMODE((root / "implied").stat().st_mode) == 0o711
    assert list((root / "empty").iterdir()) == []


def test_only_permission_bits_are_kept(root: Path, root_fd: int) -> None:
    with TreeWriter(root_fd) as tree:
        put(tree, "tool", mode=0o7755)
        tree.make_dir(("shared",), mode=0o7777)
    assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "shared").stat().st_mode) == 0o777


def test_more_directories_than_stay_open_are_written(root: Path, root_fd: int) -> None:
    deep = "/".join(f"d{level}" for level in range(OPEN_DIRECTORIES + 40))
    with TreeWriter(root_fd) as tree:
        for number in range(3 * OPEN_DIRECTORIES):
            put(tree, f"wide{number}/first")
        put(tree, f"{deep}/file", b"deep")
        for number in range(3 * OPEN_DIRECTORIES):
            put(tree, f"wide{number}/second")
    assert (root / deep / "file").read_bytes() == b"deep"
    assert all((root / f"wide{number}/second").exists() for number in range(3 * OPEN_DIRECTORIES))


@pytest.mark.parametrize("planted", ["file", "link", "directory"])
def test_what_is_already_there_is_never_opened(root: Path, root_fd: int, tmp_path: Path, planted: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    if planted == "file":
        (root / "name").write_bytes(b"mine")
    elif planted == "link":
        (root / "name").symlink_to(outside)
    else:
        (root / "name").mkdir()
    tree = TreeWriter(root_fd)
    with pytest.raises(BundleError, match="already there"):
        tree.create_file(("name",))
    with pytest.raises(BundleError, match="already there"):
        tree.make_dir(("name",))
    with pytest.raises(BundleError, match="already there"):
        tree.create_file(("name", "below"))
    tree.close()
    assert outside.read_bytes() == b"secret"


def test_a_directory_replaced_by_a_link_is_not_followed(root: Path, root_fd: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    tree = TreeWriter(root_fd)
    tree.make_dir(("target",), mode=0o700)
    for number in range(OPEN_DIRECTORIES + 1):  # pushes the descriptor of `target` out
        put(tree, f"other{number}/file")
    (root / "target").rmdir()
    (root / "target").symlink_to(outside)
    with pytest.raises(BundleError, match="'target' was replaced"):
        tree.create_file(("target", "file"))
    with pytest.raises(BundleError, match="'target' was replaced"):
        tree.finish()
    tree.abort()
    assert list(outside.iterdir()) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755
    assert list(root.iterdir()) == []


def test_abort_removes_everything_and_follows_no_link(root: Path, root_fd: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    tree = TreeWriter(root_fd)

    def fail_inside() -> None:
        with tree:
            put(tree, "a/b/file")
            (root / "a/planted").symlink_to(outside)
            (root / "planted").symlink_to(outside)
            (root / "a/b").chmod(0)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert list(root.iterdir()) == []
    assert (outside / "kept").read_bytes() == b"kept"
    tree.abort()
    with pytest.raises(ValueError, match="finished or aborted"):
        tree.make_dir(("late",))


def test_an_unprivileged_owner_removes_directories_without_permissions(tmp_path: Path) -> None:
    """Root may do anything, so the removal runs as another user where the tests run as root."""
    victim = tmp_path / "victim"
    (victim / "locked/inner").mkdir(parents=True)
    (victim / "locked/inner/file").touch()
    if os.getuid() == 0:
        for path in (victim, victim / "locked", victim / "locked/inner", victim / "locked/inner/file"):
            os.chown(path, 65534, 65534)
    (victim / "locked/inner").chmod(0o500)
    (victim / "locked").chmod(0)
    fd = os.open(victim, os.O_RDONLY | os.O_DIRECTORY)
    groups, user = os.getegid(), os.geteuid()
    try:
        if user == 0:
            os.setegid(65534)
            os.seteuid(65534)
        empty_directory(fd)
    finally:
        os.seteuid(user)
        os.setegid(groups)
        os.close(fd)
    assert list(victim.iterdir()) == []
