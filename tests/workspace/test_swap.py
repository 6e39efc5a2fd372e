"""The swap at the end: all or nothing, whenever the process dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace.local_sender import base_of, transfer
from tests.workspace.snapshots import snapshot, write_tree
from zcell.errors import WorkspaceError
from zcell.workspace import swap
from zcell.workspace.stage import PREFIX, Stage, discard_stage, recover, stage_name

CRASHING = """
import os, shutil, signal, subprocess, sys
from pathlib import Path
from zcell.workspace import stage, swap
from tests.workspace.local_sender import base_of, transfer

source, destination, way = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
steps = 0

def counted(function):
    def call(*args, **kwargs):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

def begin():
    for name in ("rename", "unlink", "rmdir", "utime", "fchmod", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    def refuse(*args):
        raise OSError(22, "no exchange here")
    swap._rename_exchange = refuse if way == "renames" else counted(swap._rename_exchange)

for attempt in range(100):
    place = destination.with_name(f"try{attempt}")
    subprocess.run(["cp", "-a", destination, place], check=True)
    steps = attempt
    child = os.fork()
    if child == 0:
        if way == "inside":
            os.chdir(place / "job")
        transfer(source, place, before_install=begin, base=base_of(place))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(attempt)
        break
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    source, destination = tmp_path / "source", tmp_path / "destination"
    write_tree(source, {"job": None, "job/a": b"new", "job/d/b": b"new too", "job/d": None}, seed=1)
    write_tree(destination, {"job": None, "job/a": b"old", "job/d/c": b"old too"}, seed=2)
    return source, destination


@pytest.mark.parametrize("way", ["exchange", "renames", "inside"])
def test_a_process_that_dies_at_any_step_leaves_the_old_or_the_new_tree(
    places: tuple[Path, Path], tmp_path: Path, way: str
) -> None:
    source, destination = places
    old, new = snapshot(destination), snapshot(source)
    arguments = [str(source), str(destination), way]
    ran = subprocess.run([sys.executable, "-c", CRASHING, *arguments], check=True, timeout=60, stdout=subprocess.PIPE)
    seen = []
    for attempt in range(int(ran.stdout) + 1):
        place = tmp_path / f"try{attempt}"
        now = snapshot(place, ignore_stages=True)
        # an instant that file systems without exchange, and directories that must stay themselves, do not spare us
        between = (way == "renames" and "job" not in now) or (way == "inside" and (place / ".zcell-job" / "commit").exists())
        assert between or _normal(now) in (_normal(old), _normal(new))
        recover(place)
        recovered = snapshot(place, ignore_stages=True)
        assert recovered in (old, new)
        assert not between or recovered == new
        seen.append(recovered == new)
        transfer(source, place, base=base_of(place))
        assert snapshot(place) == new
    assert seen == sorted(seen)
    assert False in seen
    assert True in seen


def _normal(found: dict[str, tuple[str, int, int, str]]) -> dict[str, tuple[str, int, int, str]]:
    """Mode and time of the top directory are set right after it is in place."""
    return {path: ("dir", 0, 0, "") if path == "job" else what for path, what in found.items()}


def test_a_file_system_without_exchange_is_served_too(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = places

    def refuse(*_: object) -> None:
        raise OSError(22, "no exchange here")

    monkeypatch.setattr(swap, "_rename_exchange", refuse)
    transfer(source, destination, base=base_of(destination))
    assert snapshot(destination) == snapshot(source)


def test_when_one_directory_cannot_be_put_in_place_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a/old": b"1", "b/old": b"2"}, seed=3)
    (tmp_path / "a").chmod(0o555)
    before = snapshot(tmp_path)
    true_exchange = swap._rename_exchange

    def refuse_b(from_fd: int, name: str, to_fd: int, target: str) -> None:
        if name == "b":
            raise OSError(16, "Device or resource busy", name)
        true_exchange(from_fd, name, to_fd, target)

    monkeypatch.setattr(swap, "_rename_exchange", refuse_b)
    with Stage(tmp_path, "job") as stage:
        write_tree(stage.path / "tree", {"a/new": b"1", "b/new": b"2"})
        ready = [swap.Move(name, name, (stage.path / "tree" / name).stat().st_ino, 0o755, 5) for name in ("a", "b")]
        with pytest.raises(WorkspaceError, match="'b' cannot be put in place: Device or resource busy"):
            stage.install(ready)
        assert snapshot(tmp_path, ignore_stages=True) == before
        stage.discard()
    assert snapshot(tmp_path) == before


def test_recovery_leaves_a_directory_that_somebody_put_there_meanwhile(tmp_path: Path) -> None:
    write_tree(tmp_path, {"job/theirs": b"1"}, seed=4)
    before = snapshot(tmp_path)
    with Stage(tmp_path, "job") as stage:
        swap._write_note(stage.fd, [swap.Move("job", "job", 1, 0o755, 5)])
    recover(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("note", [b"", b"\xc1", b"\x91\x01", b"\x91\x81\xa4name\xa3job"])
def test_a_damaged_note_is_no_note(tmp_path: Path, note: bytes) -> None:
    with Stage(tmp_path, "job") as stage:
        (stage.path / "commit").write_bytes(note)
    recover(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_recovery_leaves_interrupted_transfers_and_running_ones_alone(tmp_path: Path) -> None:
    with Stage(tmp_path, "interrupted") as stage:
        (stage.path / "parts" / "x").write_bytes(b"half")
    recover(tmp_path)
    assert (tmp_path / ".zcell-interrupted" / "parts" / "x").read_bytes() == b"half"
    with Stage(tmp_path, "running") as stage:
        swap._write_note(stage.fd, [swap.Move("job", "job", 1, 0o755, 5)])
        recover(tmp_path)
        discard_stage(tmp_path, "running")
        assert stage.path.exists()
    discard_stage(tmp_path, "running")
    discard_stage(tmp_path, "interrupted")
    discard_stage(tmp_path, "never was")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "link", "shared directory"])
def test_something_else_under_the_name_of_the_stage_is_refused(tmp_path: Path, what: str) -> None:
    place = tmp_path / stage_name("job")
    (tmp_path / "outside").mkdir(mode=0o700)
    if what == "file":
        place.touch()
    elif what == "link":
        place.symlink_to(tmp_path / "outside")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(WorkspaceError, match="is in the way"):
        Stage(tmp_path, "job")
    assert list((tmp_path / "outside").iterdir()) == []


def test_every_label_has_a_name_of_its_own_that_fits(tmp_path: Path) -> None:
    labels = ["job-1", "job_1", "a/b", "..", "", "ü", "x" * 255, "y" * 255, "a b"]
    names = {stage_name(label) for label in labels}
    assert len(names) == len(labels)
    assert all(name.startswith(PREFIX) and len(name) < 128 and "/" not in name for name in names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_without_privileges_restores_directories_that_nobody_may_enter(tmp_path: Path) -> None:
    tree: dict[str, bytes | None] = {"job": None, "job/closed": None, "job/closed/f": b"x", "job/f": b"y"}
    source, destination = tmp_path / "source", tmp_path / "destination"
    write_tree(source, tree)
    for place, mode in (("job/closed/f", 0o444), ("job/f", 0o400), ("job/closed", 0o555), ("job", 0o555)):
        (source / place).chmod(mode)
    destination.mkdir()
    for owned in (tmp_path, *tmp_path.rglob("*")):
        os.chown(owned, 65534, 65534)
    script = (
        "import os, sys; from pathlib import Path; from tests.workspace.local_sender import transfer;"
        "os.setgid(65534); os.setuid(65534);"
        "source, destination = map(Path, sys.argv[1:]);"
        "transfer(source, destination); print(len(transfer(source, destination)[0].sent));"
        "os.utime(source / 'job', ns=(5, 5)); transfer(source, destination)"
    )
    for above in tmp_path.parents[:-2]:
        above.chmod(above.stat().st_mode | 0o011)
    ran = subprocess.run([sys.executable, "-c", script, source, destination], check=False, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("0\n", "")
    assert snapshot(destination) == snapshot(source)
