"""All that a user can see of a tree,. Invariant: equal snapshots mean equal trees, times included."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Mapping
from pathlib import Path

Snapshot = dict[str, tuple[str, int, int, str]]


def snapshot(root: Path, *, times: bool = True, ignore_stages: bool = False) -> Snapshot:
    """(kind, mode, mtime in ns, content) by path relative to `root`; the root itself is not part of it."""
    found: Snapshot = {}
    _visit(root, "", found, times, ignore_stages)
    return found


def _visit(directory: Path, prefix: str, found: Snapshot, times: bool, ignore_stages: bool) -> None:
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda e: e.name)
    for entry in entries:
        if ignore_stages and not prefix and entry.name.startswith(".zcell-"):
            continue
        status = entry.stat(follow_symlinks=False)
        path = prefix + entry.name
        mtime = status.st_mtime_ns if times else 0
        mode = stat.S_IMODE(status.st_mode)
        if entry.is_symlink():
            found[path] = ("link", 0, 0, str(Path(entry.path).readlink()))
        elif entry.is_dir():
            found[path] = ("dir", mode, mtime, "")
            _visit(Path(entry.path), path + "/", found, times, ignore_stages)
        elif entry.is_file():
            content = (
                hashlib.sha256(Path(entry.path).read_bytes()).hexdigest() if status.st_size < 1 << 28 else str(status.st_size)
            )
            found[path] = ("file", mode, mtime, content)
        else:
            found[path] = ("special", mode, mtime, str(status.st_rdev))


def write_tree(root: Path, tree: Mapping[str, bytes | None], *, seed: int = 0) -> None:
    """Write files (bytes) and directories (None), with odd modes and times drawn from `seed`."""
    rng = random.Random(seed)
    directories = []
    for path, content in tree.items():
        place = root / path
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
            directories.append(place)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(rng.choice([0o644, 0o755, 0o600, 0o444, 0o000, 0o640]))
        time = rng.randrange(10**18, 2 * 10**18)
        os.utime(place, ns=(time, time))
    for place in sorted(directories, key=lambda p: len(p.parts), reverse=True):
        time = rng.randrange(10**18, 2 * 10**18)
        os.utime(place, ns=(time, time))
        place.chmod(rng.choice([0o755, 0o700, 0o555]))
