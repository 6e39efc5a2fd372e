"""Both sides change a tree at the same time: nothing that anybody did is undone, and what collides is kept twice."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workspace.local_sender import base_of, transfer
from tests.workspace.snapshots import snapshot, write_tree
from zcell.errors import BundleError
from zcell.workspace.carry import Base
from zcell.workspace.receive import Received

TREE: dict[str, bytes | None] = {
    "job/a": b"1",
    "job/b": b"2",
    "job/d/x": b"3",
    "job/d/y": b"4",
    "job/e/deep/z": b"5",
    "job/empty": None,
}


class Two:
    """The user's directory, and the job's copy of it."""

    def __init__(self, tmp_path: Path, tree: dict[str, bytes | None]) -> None:
        self.home, self.away = tmp_path / "home", tmp_path / "away"
        write_tree(self.home, tree, seed=1)
        subtree = shutil.copytree(self.home, self.away)
        assert subtree == self.away
        self.base = base_of(self.home)

    def merge(self) -> Received:
        return transfer(self.away, self.home, base=Base(self.base.entries, "j1"))[1]

    def read(self, path: str) -> bytes:
        return (self.home / "job" / path).read_bytes()

    def names(self) -> set[str]:
        return {path.removeprefix("job/") for path in snapshot(self.home) if path != "job"}


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path, TREE)


def test_what_was_edited_here_stays_when_the_job_did_not_touch_it(two: Two) -> None:
    (two.home / "job/a").write_bytes(b"edited here")
    (two.away / "job/b").write_bytes(b"written by the job")
    received = two.merge()
    assert two.read("a") == b"edited here"
    assert two.read("b") == b"written by the job"
    assert received.conflicts == 0
    assert two.names() == {"a", "b", "d", "d/x", "d/y", "e", "e/deep", "e/deep/z", "empty"}


def test_what_was_removed_here_does_not_come_back(two: Two) -> None:
    (two.home / "job/a").unlink()
    shutil.rmtree(two.home / "job/e")
    (two.home / "job/empty").rmdir()
    two.merge()
    assert two.names() == {"b", "d", "d/x", "d/y"}


def test_a_directory_removed_here_comes_back_for_what_the_job_made_in_it(two: Two) -> None:
    shutil.rmtree(two.home / "job/e")
    (two.away / "job/e/deep/new").write_bytes(b"n")
    (two.away / "job/e/deep").chmod(0o750)
    two.merge()
    assert {name for name in two.names() if name[0] == "e" and name != "empty"} == {"e", "e/deep", "e/deep/new"}
    assert (two.home / "job/e/deep").stat().st_mode & 0o777 == 0o750


def test_what_the_job_removed_goes_unless_it_was_edited_here(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    (two.home / "job/d/x").write_bytes(b"edited here")
    (two.home / "job/d").chmod(0o755)
    shutil.rmtree(two.away / "job/d")
    (two.away / "job/a").unlink()
    received = two.merge()
    assert {"d", "d/x"} <= two.names()
    assert not {"a", "d/y"} & two.names()
    assert two.read("d/x") == b"edited here"
    assert (two.home / "job/d").stat().st_mode & 0o777 == 0o755
    assert (received.dropped, received.conflicts) == (2, 1)
    assert f"{two.home}/job/d/x was changed here while the other side removed it: it stays" in caplog.text


def test_what_both_changed_is_kept_twice_and_named(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    (two.home / "job/d/x").write_bytes(b"edited here")
    (two.away / "job/d/x").write_bytes(b"written by the job")
    (two.home / "job/new").write_bytes(b"made here")
    (two.away / "job/new").write_bytes(b"made by the job")
    (two.home / "job/new.before-j1").write_bytes(b"of an earlier time")
    received = two.merge()
    assert (two.read("d/x"), two.read("d/x.before-j1")) == (b"written by the job", b"edited here")
    assert (two.read("new"), two.read("new.before-j1-2")) == (b"made by the job", b"made here")
    assert two.read("new.before-j1") == b"of an earlier time"
    assert received.conflicts == 2
    assert f"{two.home}/job/d/x was changed here and on the other side: what was here is now x.before-j1" in caplog.text


def test_the_same_change_on_both_sides_is_no_conflict(two: Two) -> None:
    for side in (two.home, two.away):
        (side / "job/a").write_bytes(b"the same")
        (side / "job/new").write_bytes(b"new")
    assert two.merge().conflicts == 0
    assert {"a", "new"} <= two.names()
    assert not [name for name in two.names() if "before" in name]


def test_a_name_that_is_as_long_as_it_may_be_is_cut(two: Two) -> None:
    name = "é" * 127
    for side in (two.home, two.away):
        (side / "job" / name).write_bytes(str(side).encode())
    assert two.merge().conflicts == 1
    kept = [path for path in two.names() if path.endswith(".before-j1")]
    assert len(kept) == 1
    assert two.read(kept[0]) == str(two.home).encode()


def test_a_link_made_here_is_kept_and_never_followed(two: Two, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"not ours")
    (two.home / "job/a").unlink()
    (two.home / "job/a").symlink_to(outside)
    (two.home / "job/b").unlink()
    (two.home / "job/b").symlink_to(outside)
    (two.away / "job/b").write_bytes(b"written by the job")
    two.merge()
    assert (two.home / "job/a").is_symlink()
    assert (two.home / "job/b.before-j1").is_symlink()
    assert two.read("b") == b"written by the job"
    assert outside.read_bytes() == b"not ours"


def test_a_file_that_became_a_directory_here_stays_one(two: Two) -> None:
    (two.home / "job/a").unlink()
    (two.home / "job/a").mkdir()
    (two.home / "job/a/mine").write_bytes(b"m")
    two.merge()
    assert {"a", "a/mine"} <= two.names()


def test_a_job_that_did_nothing_changes_nothing(two: Two) -> None:
    home = two.home / "job"
    (home / "a").chmod(0o4755)
    (home / "d").chmod(0o2775)
    (home / "empty").chmod(0o1777)
    if os.geteuid() == 0:
        os.chown(home / "d", 12345, 54321)
        os.chown(home, 1, 2)
    for path in ("a", "d", "empty"):
        (two.away / "job" / path).chmod((home / path).stat().st_mode & 0o777)
    two.base = base_of(two.home)

    def facts() -> dict[str, tuple[int, int, int, int]]:
        found = {path: path.lstat() for path in [home, *home.rglob("*")]}
        return {str(path): (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) for path, s in found.items()}

    before = facts()
    two.merge()
    assert facts() == before


def test_a_workspace_that_was_moved_away_gets_all_results(two: Two, tmp_path: Path) -> None:
    (two.home / "job").rename(tmp_path / "elsewhere")
    two.merge()
    assert snapshot(two.home) == snapshot(two.away)


NAMES = st.sampled_from(["a", "b", "d/x", "d/y", "e/deep/z", "new", "d/new", "e", "d"])
CHANGES = st.lists(st.tuples(st.sampled_from(["write", "remove", "chmod", "mkdir"]), NAMES, st.integers(0, 3)), max_size=6)


def _apply(root: Path, changes: list[tuple[str, str, int]]) -> None:
    for number, (what, name, value) in enumerate(changes):
        path = root / "job" / name
        try:
            if what == "write":
                path.write_bytes(b"x" * (10 + value))
                os.utime(path, ns=(0, 10**18 + value * 1000 + number))
            elif what == "mkdir":
                path.mkdir()
            elif what == "chmod":
                path.chmod([0o700, 0o750, 0o755, 0o744][value])
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError:
            continue


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, CHANGES)
def test_any_changes_on_both_sides_lose_no_content(
    tmp_path_factory: pytest.TempPathFactory, here: list[tuple[str, str, int]], there: list[tuple[str, str, int]]
) -> None:
    logging.getLogger("zcell.workspace.receive").setLevel(logging.ERROR)
    two = Two(tmp_path_factory.mktemp("two"), TREE)
    started = _contents(two.home)
    _apply(two.home, here)
    _apply(two.away, there)
    ours, theirs = _contents(two.home), _contents(two.away)
    before = snapshot(two.home)
    try:
        two.merge()
    except BundleError:  # a file where the other has a directory
        assert snapshot(two.home) == before
        return
    finally:
        logging.getLogger("zcell.workspace.receive").setLevel(logging.NOTSET)
    merged = _contents(two.home)
    for path, content in theirs.items():
        if content != started.get(path):
            assert merged[path] == content, "what the job changed is there"
    for path, content in ours.items():
        if content != started.get(path):
            assert content in (merged.get(path), merged.get(path + ".before-j1")), "what was changed here is there"
    untouched: Callable[[str], bool] = lambda path: ours.get(path) == theirs.get(path) == started[path]  # noqa: E731
    assert all(merged.get(path) == content for path, content in started.items() if untouched(path))


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
