"""Private directories of jobs, and what becomes of those whose jobs are dead."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.programs import running
from zcell.launch.scratch import Scratch, sweep

HOLD = """
    import sys
    from pathlib import Path
    from zcell.launch.scratch import Scratch
    print(Scratch.create("dead", Path(sys.argv[1])).path, flush=True)
    input()
"""


def test_a_scratch_directory_is_private_and_goes_with_everything_in_it(tmp_path: Path) -> None:
    scratch = Scratch.create("job-1", tmp_path)
    assert stat.S_IMODE(scratch.path.stat().st_mode) == 0o700
    locked = scratch.workspace / "locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    locked.chmod(0)
    scratch.remove()
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_somebody_holds_is_left_alone(tmp_path: Path) -> None:
    held = Scratch.create("alive", tmp_path)
    second = Scratch(held.path)
    held.release()
    assert sweep(tmp_path) == []
    assert second.path.exists()
    second.release()
    assert sweep(tmp_path) == [second.path]


def test_the_directory_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    with running(HOLD, tmp_path) as holder:
        path = Path(holder.line())
        assert sweep(tmp_path) == []
        holder.process.kill()
    seen: list[Path] = []
    assert sweep(tmp_path, seen.append) == [path] == seen
    assert not path.exists()


def test_other_directories_are_never_swept(tmp_path: Path) -> None:
    (tmp_path / "zcell-job-not-marked").mkdir(mode=0o700)
    (tmp_path / "zcell-job-open").mkdir(mode=0o755)
    (tmp_path / "zcell-job-open" / "held").touch()
    (tmp_path / "zcell-job-file").touch()
    (tmp_path / "zcell-job-link").symlink_to(tmp_path / "zcell-job-open")
    assert sweep(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 4
