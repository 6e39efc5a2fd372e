"""Places and files that cannot be what is asked for are refused in words that say why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from zcell.pipe import FilePipe, Mode, SharedFile


def test_a_pipe_needs_the_name_of_its_directory() -> None:
    with pytest.raises(ValueError, match=r"^root_path must name a directory, got ''"):
        FilePipe(Mode.PASSIVE, "")


@pytest.mark.parametrize("root", [None, 5, b"pipe"])
def test_a_pipes_directory_is_a_path(root: Any) -> None:
    with pytest.raises(TypeError, match=r"^root_path must be a str or a Path, not "):
        FilePipe(Mode.PASSIVE, root)


def test_what_is_no_file_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing does not exist$"):
        SharedFile(tmp_path / "missing")
    with pytest.raises(IsADirectoryError, match="is a directory: a SharedFile is one file"):
        SharedFile(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="is not a regular file"):
        SharedFile(tmp_path / "fifo")
