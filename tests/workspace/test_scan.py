"""Listing a tree: everything that travels is listed, nothing behind a link is."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from zcell.errors import BundleError
from zcell.workspace.patterns import Excludes
from zcell.workspace.scan import scan_tree


def make_link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


def make_directory_link(place: Path) -> None:
    place.symlink_to("/etc", target_is_directory=True)


def make_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(place.parent)
        try:
            end.bind(place.name)
        finally:
            os.chdir(here)


SPECIAL: list[tuple[Callable[[Path], None], str]] = [
    (make_link, "a link to '/etc/passwd'"),
    (make_directory_link, "a link to '/etc'"),
    (os.mkfifo, "a FIFO"),
    (make_socket, "a socket"),
]


def test_the_listing_has_modes_times_and_sizes_in_order(tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "b" / "empty").mkdir(parents=True)
    (job / "b" / "x").write_bytes(b"12345")
    (job / "b-c").write_bytes(b"")
    (job / "b-c").chmod(0o4711)
    os.utime(job / "b" / "x", ns=(1, 1_234_567_890_123_456_789))
    (job / "b" / "empty").chmod(0o2700)
    manifest = scan_tree({"job": tmp_path / "job", "missing": tmp_path / "missing"}).manifest
    assert [entry.path for entry in manifest] == ["job", "job/b", "job/b/empty", "job/b/x", "job/b-c"]
    by_path = {entry.path: entry for entry in manifest}
    assert by_path["job/b/x"].mtime_ns == 1_234_567_890_123_456_789
    assert by_path["job/b/x"].size == 5
    assert by_path["job/b-c"].mode == 0o711
    assert by_path["job/b/empty"].mode == 0o700


@pytest.mark.parametrize(("make", "what"), SPECIAL)
def test_links_and_special_files_are_refused_by_name(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    (tmp_path / "job" / "sub").mkdir(parents=True)
    make(tmp_path / "job" / "sub" / "odd")
    with pytest.raises(BundleError, match=f"'job/sub/odd' is {what}"):
        scan_tree({"job": tmp_path / "job"})


@pytest.mark.parametrize(("make", "what"), SPECIAL)
def test_links_and_special_files_can_be_left_out(
    tmp_path: Path, make: Callable[[Path], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "job").mkdir()
    make(tmp_path / "job" / "odd")
    (tmp_path / "job" / "kept").touch()
    listed = scan_tree({"job": tmp_path / "job"}, skip_special=True).manifest
    assert [entry.path for entry in listed] == ["job", "job/kept"]
    assert what in caplog.text


def test_a_link_in_place_of_the_job_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").symlink_to("/etc")
    with pytest.raises(BundleError, match="job' is a link"):
        scan_tree({"job": tmp_path / "job"})


def test_excluded_entries_are_not_even_looked_at(tmp_path: Path) -> None:
    (tmp_path / "local" / "deep").mkdir(parents=True)
    (tmp_path / "local" / "deep" / "link").symlink_to("/etc")
    (tmp_path / "local" / "study_data.yaml").touch()
    (tmp_path / "local" / "fine.yaml").touch()
    listed = scan_tree({"local": tmp_path / "local"}, excludes=Excludes(["local/study_data.yaml", "deep"])).manifest
    assert [entry.path for entry in listed] == ["local", "local/fine.yaml"]
    assert len(scan_tree({"local": tmp_path / "local"}, excludes=Excludes(["local"])).manifest) == 0


def test_names_that_only_differ_in_case_are_refused_before_they_travel(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "Makefile").touch()
    (tmp_path / "job" / "makefile").touch()
    with pytest.raises(BundleError, match="makefile"):
        scan_tree({"job": tmp_path / "job"})


def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/job/\xff\xfe")).touch()
    with pytest.raises(BundleError, match="UTF-8"):
        scan_tree({"job": tmp_path / "job"})


def test_a_file_exchanged_for_a_link_after_the_listing_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "a").write_text("public")
    tree = scan_tree({"job": tmp_path / "job"})
    (tmp_path / "job" / "a").unlink()
    (tmp_path / "job" / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="'job/a' cannot be read any more"):
        tree.open_file(1)


def test_a_directory_exchanged_for_a_link_after_the_listing_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("secret")
    (tmp_path / "job" / "d").mkdir(parents=True)
    (tmp_path / "job" / "d" / "a").write_text("public")
    tree = scan_tree({"job": tmp_path / "job"})
    (tmp_path / "job" / "d").rename(tmp_path / "moved")
    (tmp_path / "job" / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="cannot be read any more"):
        tree.open_file(2)


def test_a_directory_exchanged_for_a_link_during_the_listing_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job" / "d").mkdir(parents=True)
    true_open = os.open

    def exchanging(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "d":
            (tmp_path / "job" / "d").rmdir()
            (tmp_path / "job" / "d").symlink_to("/etc")
        return true_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("zcell.workspace.scan.os.open", exchanging)
    with pytest.raises(BundleError, match="exchanged for something else"):
        scan_tree({"job": tmp_path / "job"})


@pytest.mark.parametrize("change", ["longer", "touched", "replaced", "fifo"])
def test_a_file_that_changed_after_the_listing_is_not_sent(tmp_path: Path, change: str) -> None:
    place = tmp_path / "job" / "a"
    place.parent.mkdir()
    place.write_text("before")
    tree = scan_tree({"job": tmp_path / "job"})
    if change == "longer":
        place.write_text("before and after")
    elif change == "touched":
        os.utime(place, ns=(5, 5))
    else:
        status = place.stat()
        place.rename(tmp_path / "kept")
        place.write_text("xxxxxx") if change == "replaced" else os.mkfifo(place)
        os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with pytest.raises(BundleError, match="'job/a'"):
        tree.open_file(1)


def test_deep_trees_of_long_names_are_listed(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(15):
        os.mkdir("n" * 255, dir_fd=here)
        below = os.open("n" * 255, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    assert stat.S_ISDIR(os.fstat(here).st_mode)
    os.close(here)
    listed = scan_tree({"n" * 255: tmp_path / ("n" * 255)}).manifest
    assert len(listed.entries[-1].path) == 15 * 256 - 1


def test_a_directory_may_travel_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "somewhere" / "d").mkdir(parents=True)
    (tmp_path / "somewhere" / "d" / "f").write_bytes(b"1")
    tree = scan_tree({"job-7": tmp_path / "somewhere"})
    assert [entry.path for entry in tree.manifest] == ["job-7", "job-7/d", "job-7/d/f"]
    os.close(tree.open_file(2))


def test_every_entry_ticks(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    for number in range(5):
        (tmp_path / "job" / str(number)).touch()
    ticks: list[None] = []
    scan_tree({"job": tmp_path / "job"}, tick=lambda: ticks.append(None))
    assert len(ticks) == 5
