"""Where results go is looked at before a job starts, not after it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zcell.workspace.jobs import JobPlaces


def _places(job: Path, results: Path) -> JobPlaces:
    job.mkdir()
    return JobPlaces.of("job", None, job, results)


def test_directories_that_can_be_made_are_fine(tmp_path: Path) -> None:
    _places(tmp_path / "job", tmp_path / "not" / "there" / "yet").check_writable()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"results cannot go to .*/file/sub/out"):
        _places(tmp_path / "job", tmp_path / "file" / "sub" / "out").check_writable()


def test_a_directory_that_may_not_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = _places(tmp_path / "job", tmp_path / "mine" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=f"results cannot go to {tmp_path}/mine/out: permission denied"):
        places.check_writable()
