"""A disk that can be full: the fixture `small_disk` mounts one, and this fills it."""

from __future__ import annotations

from pathlib import Path


def fill(filler: Path) -> None:
    """Write to `filler` until its disk takes no more."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return
