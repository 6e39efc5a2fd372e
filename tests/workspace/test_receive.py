"""Receiving a tree: identical after it, untouched before it, continued after a loss."""

from __future__ import annotations

import os
import random
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workspace.local_sender import LinkLostError, LocalSender, base_of, transfer
from tests.workspace.snapshots import snapshot, write_tree
from tests.workspace.test_sparse import write_sparse
from zcell.errors import BundleError, WorkspaceError
from zcell.limits import KIB, MIB
from zcell.workspace.limits import WorkspaceLimits
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.meter import Meter, WorkspaceProgress
from zcell.workspace.receive import receive_tree
from zcell.workspace.scan import ScannedTree, scan_tree

ODD_TREE: dict[str, bytes | None] = {
    "job": None,
    "job/empty": None,
    "job/empty/deeper": None,
    "job/zero": b"",
    "job/run.sh": b"#!/bin/sh\n",
    "job/ünï/☃.txt": b"schnee",
    "job/ünï": None,
    "job/spaces and 'quotes'": b"x",
    "job/" + "n" * 255: b"long",
    "job/" + "é" * 127: b"long in bytes",
    "job/large": bytes(range(256)) * 4096 * 3,
    "job/exactly": b"z" * MIB,
}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.mkdir()
    destination.mkdir()
    return source, destination


def test_a_tree_arrives_identical(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, ODD_TREE, seed=1)
    _, received = transfer(source, destination)
    assert snapshot(destination) == snapshot(source)
    assert received.files == 8
    assert received.fetched_files == 8
    assert received.fetched_bytes == received.data_bytes == sum(len(content or b"") for content in ODD_TREE.values())


def test_an_empty_file_counts_as_new_once(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/empty": b"", "job/full": b"x"}, seed=1)
    assert transfer(source, destination)[1].fetched_files == 2
    (source / "job/another").touch()
    assert transfer(source, destination)[1].fetched_files == 1


def test_paths_near_the_longest_the_system_allows_arrive(places: tuple[Path, Path]) -> None:
    source, destination = places
    here = os.open(source, os.O_RDONLY)
    for name in ["job"] + ["d" * 255] * 15:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    with os.fdopen(os.open("f" * 100, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=here), "wb") as out:
        out.write(b"deep")
    os.close(here)

    sender, _ = transfer(source, destination)
    assert len(sender.sent) == 1
    assert scan_tree({"job": destination / "job"}).manifest.packed == sender.tree.manifest.packed
    sender, _ = transfer(source, destination)
    assert sender.sent == []


def test_a_sparse_file_stays_sparse(places: tuple[Path, Path]) -> None:
    source, destination = places
    (source / "job").mkdir()
    write_sparse(source / "job" / "f", 64 * MIB, [(MIB, 5000), (40 * MIB, 70_000)])
    write_sparse(source / "job" / "hole", 3 << 30, [])
    transfer(source, destination)
    assert (destination / "job" / "f").read_bytes() == (source / "job" / "f").read_bytes()
    assert (destination / "job" / "f").stat().st_blocks * 512 < MIB
    assert (destination / "job" / "hole").stat().st_size == 3 << 30
    assert (destination / "job" / "hole").stat().st_blocks == 0
    sender, _ = transfer(source, destination)
    assert sender.sent == []


def test_hard_links_become_separate_files(places: tuple[Path, Path]) -> None:
    source, destination = places
    (source / "job").mkdir()
    (source / "job" / "a").write_bytes(b"same")
    (source / "job" / "b").hardlink_to(source / "job" / "a")
    transfer(source, destination)
    assert (destination / "job" / "a").stat().st_ino != (destination / "job" / "b").stat().st_ino
    assert (destination / "job" / "b").stat().st_nlink == 1


def test_only_what_differs_travels(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {f"job/d{n % 5}/f{n}": random.Random(n).randbytes(100) for n in range(50)}, seed=2)
    (source / "job" / "big").write_bytes(os.urandom(2 * MIB))
    transfer(source, destination)
    (source / "job" / "d1" / "f1").chmod(0o600)
    (source / "job" / "d1" / "f1").write_bytes(b"other")
    (source / "job" / "d2" / "f2").chmod(0o700)  # same content, another mode
    os.utime(source / "job" / "big", ns=(7, 7))  # same content, another time
    sender, received = transfer(source, destination)
    assert sender.sent == ["job/d1/f1"]
    assert received.fetched_bytes == 5
    assert snapshot(destination) == snapshot(source)


def test_content_of_the_same_size_and_time_is_not_taken_for_the_same(places: tuple[Path, Path]) -> None:
    source, destination = places
    for root, content in ((source, b"right"), (destination, b"wrong")):
        (root / "job").mkdir()
        (root / "job" / "f").write_bytes(content)
        os.utime(root / "job" / "f", ns=(5, 5))
    sender, _ = transfer(source, destination)
    assert sender.have == ["job/f"]
    assert (destination / "job" / "f").read_bytes() == b"right"


def test_what_never_travelled_is_kept(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"1", "job/sub/b": b"2"}, seed=3)
    write_tree(destination, {"job/mine": b"mine", "job/sub/mine too": b"3", "job/own/deep": None, "elsewhere": b"4"}, seed=4)
    (destination / "job" / "link").symlink_to("/nowhere")
    before = snapshot(destination)
    transfer(source, destination)
    after = snapshot(destination)
    for path in ("job/mine", "job/sub/mine too", "job/own", "job/own/deep", "elsewhere", "job/link"):
        assert after[path] == before[path]
    assert {path: after[path] for path in snapshot(source)} == snapshot(source)


def test_what_the_other_side_removed_is_removed(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"1"})
    write_tree(destination, {"job/gone": b"1", "job/old/x": b"2", "job/old/mine": b"3", "job/empty": None, "job/stays": b"4"})
    dropped = {"job/gone", "job/old", "job/old/x", "job/empty"}
    _, received = transfer(source, destination, base=base_of(destination, having=dropped.__contains__))
    assert set(snapshot(destination)) == {"job", "job/a", "job/old", "job/old/mine", "job/stays"}
    assert received.dropped == 3


def test_a_file_may_become_a_directory_and_back(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a/b": b"1", "job/c": b"2"})
    write_tree(destination, {"job/a": b"old", "job/c/d": b"old"})
    transfer(source, destination, base=base_of(destination))
    assert snapshot(destination) == snapshot(source)


@pytest.mark.parametrize(
    ("arriving", "here", "what"),
    [
        ({"job/x": b"1"}, {"job/x/mine": b"2"}, "'job/x'.*directory"),
        ({"job/x/y": b"1"}, {"job/x": b"2"}, "'job/x'.*file that never travelled"),
    ],
)
def test_nothing_silently_wins_over_what_never_travelled(
    places: tuple[Path, Path], arriving: dict[str, bytes | None], here: dict[str, bytes | None], what: str
) -> None:
    source, destination = places
    write_tree(source, arriving)
    write_tree(destination, here)
    before = snapshot(destination)
    with pytest.raises(BundleError, match=what):
        transfer(source, destination)
    assert snapshot(destination) == before


def test_a_link_planted_in_the_destination_is_never_followed(places: tuple[Path, Path], tmp_path: Path) -> None:
    source, destination = places
    outside = tmp_path / "outside"
    write_tree(outside, {"d/f": b"secret", "f": b"secret"})
    before = snapshot(outside)
    write_tree(source, {"job/d/f": b"arrived", "job/f": b"arrived", "job/same": b"secret"})
    (destination / "job").mkdir()
    (destination / "job" / "d").symlink_to(outside / "d")
    (destination / "job" / "f").symlink_to(outside / "f")
    (destination / "job" / "same").symlink_to(outside / "f")
    with pytest.raises(BundleError, match=r"'job/d'.*file that never travelled"):
        transfer(source, destination)
    assert snapshot(outside) == before
    (destination / "job" / "d").unlink()
    sender, _ = transfer(source, destination)
    assert sender.have == []
    assert snapshot(outside) == before
    assert snapshot(destination) == snapshot(source)


@pytest.mark.parametrize("plant", ["link", "file"])
def test_a_destination_that_is_no_directory_is_refused(places: tuple[Path, Path], tmp_path: Path, plant: str) -> None:
    source, destination = places
    write_tree(source, {"job/f": b"x"})
    (tmp_path / "outside").mkdir()
    if plant == "link":
        (destination / "job").symlink_to(tmp_path / "outside")
    else:
        (destination / "job").write_bytes(b"mine")
    before = snapshot(destination)
    with pytest.raises(BundleError, match="'job' at the destination"):
        transfer(source, destination)
    assert snapshot(destination) == before
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_called_off_transfer_changes_nothing(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/f": b"new"})
    write_tree(destination, {"job/f": b"old", "job/kept": b"x"}, seed=6)
    before = snapshot(destination)

    def call_off() -> None:
        raise WorkspaceError("the job is gone")

    with pytest.raises(WorkspaceError, match="gone"):
        transfer(source, destination, before_install=call_off)
    assert snapshot(destination, ignore_stages=True) == before


def test_an_interrupted_transfer_continues_with_what_has_arrived(places: tuple[Path, Path]) -> None:
    source, destination = places
    tree: dict[str, bytes | None] = {f"job/s{n:02}": os.urandom(50) for n in range(20)}
    tree |= {f"job/large{n}": os.urandom(MIB + n) for n in range(4)}
    write_tree(source, tree, seed=5)
    write_tree(destination, {"job/s03": b"old"})
    before = snapshot(destination)
    sent: list[str] = []
    for fail_after in (7, 15, None):
        if fail_after is None:
            sender, _ = transfer(source, destination)
        else:
            with pytest.raises(LinkLostError):
                transfer(source, destination, fail_after=fail_after)
            assert snapshot(destination, ignore_stages=True) == before
            continue
        sent = sender.sent
    assert len(sent) == 24 - 7 - 15
    assert snapshot(destination) == snapshot(source)


def test_a_file_in_the_stage_that_is_not_whole_is_sent_again(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"right", "job/b": b"fine"}, seed=7)
    with pytest.raises(LinkLostError):
        transfer(source, destination, fail_after=1)
    staged = destination / ".zcell-job" / "tree" / "job" / "a"
    staged.chmod(0o600)
    staged.write_bytes(b"torn!")
    sender, _ = transfer(source, destination)
    assert sender.sent == ["job/a", "job/b"]
    assert snapshot(destination) == snapshot(source)


def test_what_an_earlier_attempt_staged_and_nobody_wants_any_more_is_cleared(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"1", "job/b/c": b"2", "job/d": b"3"})
    with pytest.raises(LinkLostError):
        transfer(source, destination, fail_after=2)
    (source / "job" / "b" / "c").unlink()
    (source / "job" / "b").rmdir()
    (source / "job" / "b").write_bytes(b"now a file")
    (source / "job" / "a").unlink()
    transfer(source, destination)
    assert snapshot(destination) == snapshot(source)


def test_an_attempt_never_touches_files_it_shares_with_the_destination(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"same", "job/b": b"new"}, seed=8)
    transfer(source, destination)
    (source / "job" / "b").chmod(0o644)
    (source / "job" / "b").write_bytes(b"newer")
    with pytest.raises(LinkLostError):
        transfer(source, destination, fail_after=0)  # by now the stage shares `a` with the destination
    before = snapshot(destination, ignore_stages=True)
    (source / "job" / "a").chmod(0o604)
    os.utime(source / "job" / "a", ns=(9, 9))
    with pytest.raises(LinkLostError):
        transfer(source, destination, fail_after=0)
    assert snapshot(destination, ignore_stages=True) == before
    transfer(source, destination)
    assert snapshot(destination) == snapshot(source)


def test_two_transfers_to_one_place_do_not_mix(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"1"})

    def another() -> None:
        with pytest.raises(WorkspaceError, match="another transfer"):
            transfer(source, destination)

    transfer(source, destination, before_install=another)
    assert snapshot(destination) == snapshot(source)


def test_a_full_disk_is_reported_before_anything_is_sent(places: tuple[Path, Path]) -> None:
    source, destination = places
    limits = WorkspaceLimits(total_bytes=1 << 60, file_bytes=1 << 60)
    manifest = Manifest([Entry("job", True, 0o755, 0), Entry("job/f", False, 0o644, 0, 100 << 40)], limits)
    sender = LocalSender(ScannedTree({"job": source}, manifest, (None, None)))
    with pytest.raises(WorkspaceError, match="has room for"):
        receive_tree(destination, "job", manifest, sender)
    assert sender.sent == []


def test_progress_only_grows_and_ends_complete(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {f"job/{n}": bytes(300 * KIB) for n in range(8)})
    seen: list[WorkspaceProgress] = []
    meter = Meter("job", "down", "server", seen.append)
    transfer(source, destination, meter=meter)
    meter.end("COMPLETED")
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [event.bytes_done for event in seen] == sorted(event.bytes_done for event in seen)
    assert seen[-1].state == "COMPLETED"
    assert seen[-1].bytes_done == seen[-1].bytes_total == 8 * 300 * KIB
    assert seen[-1].items_done == seen[-1].items_total == 8
    assert list(dict.fromkeys(event.phase for event in seen)) == ["comparing", "transferring", "installing"]


def test_a_directory_may_arrive_under_another_name(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"1", "job/large": bytes(2 * MIB)}, seed=9)
    write_tree(destination, {"out/mine": b"2", "job/not this": b"3"})
    before = snapshot(destination / "job")
    transfer(source, destination, names={"job": "out"})
    assert set(snapshot(destination / "out")) == {"a", "large", "mine"}
    assert snapshot(destination / "job") == before
    sender, _ = transfer(source, destination, names={"job": "out"})
    assert sender.sent == []


def test_content_that_is_held_elsewhere_does_not_travel_and_stays_apart(places: tuple[Path, Path]) -> None:
    source, destination = places
    write_tree(source, {"job/a": b"1", "job/new": b"2"}, seed=10)
    write_tree(destination, {"inputs/a": b"1"}, seed=10)
    sender, _ = transfer(source, destination, names={"job": "out"}, also_held={"job": destination / "inputs"})
    assert sender.sent == ["job/new"]
    assert (destination / "out" / "a").stat().st_ino != (destination / "inputs" / "a").stat().st_ino
    assert snapshot(destination / "out") == snapshot(source / "job")


def test_the_directory_that_the_user_works_in_stays_the_same_directory(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = places
    write_tree(source, {"job": None, "job/a": b"1", "job/d/b": b"2", "job/d": None, "job/e": None, "job/x": None}, seed=11)
    write_tree(destination, {"job/a": b"old", "job/d/c": b"old", "job/gone": b"3", "job/e": b"4", "job/d/in": None})
    monkeypatch.chdir(destination / "job" / "d")
    inode = (destination / "job").stat().st_ino
    transfer(source, destination, base=base_of(destination))
    assert (destination / "job").stat().st_ino == inode
    assert snapshot(destination) == snapshot(source)


NAMES = st.text(alphabet=string.ascii_lowercase + "é☃ .", min_size=1, max_size=6).filter(lambda n: n.strip(". "))
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map("/".join), st.one_of(st.none(), st.binary(max_size=200)), max_size=12
)


def plausible(tree: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """Without files in the place of directories, and without names that clash or are reserved."""
    kept: dict[str, bytes | None] = {"job": None}
    for path, content in tree.items():
        whole = f"job/{path}"
        parents = [whole[:at] for at, char in enumerate(whole) if char == "/"]
        if any(kept.get(parent) is not None for parent in parents) or any(key.startswith(whole + "/") for key in kept):
            continue
        if not {"aux", "con", "nul", "prn"} & {part.partition(".")[0].strip() for part in path.split("/")}:
            kept[whole] = content
    return kept


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES.map(plausible), TREES.map(plausible), st.integers(0, 1 << 30), st.integers(0, 12))
def test_any_tree_over_any_other_arrives_or_leaves_all_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    new: dict[str, bytes | None],
    old: dict[str, bytes | None],
    seed: int,
    fail_after: int,
) -> None:
    source, destination = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("destination")
    write_tree(source, new, seed=seed)
    write_tree(destination, old, seed=seed + 1)
    before, wanted = snapshot(destination), snapshot(source)
    try:
        transfer(source, destination, fail_after=fail_after)
    except LinkLostError:
        assert snapshot(destination, ignore_stages=True) == before
    except BundleError:
        assert snapshot(destination) == before
    try:
        transfer(source, destination)
    except BundleError:
        assert snapshot(destination, ignore_stages=True) == before
        transfer(source, destination, base=base_of(destination))
        assert snapshot(destination) == wanted
        return
    after = snapshot(destination)
    assert {path: after[path] for path in wanted} == wanted
    assert {path: what for path, what in before.items() if path not in wanted} == {
        path: what for path, what in after.items() if path not in wanted
    }
