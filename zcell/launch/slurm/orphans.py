"""Jobs of dead parents. Invariant: only jobs of a process of this machine that is certainly dead are cancelled.

A job's comment names the process that submitted it. A running job of a dead parent ends by its lease; one that still waits in the
queue would only find that out once it starts, so the next launcher on the same machine takes it out.
"""

from __future__ import annotations

import logging
import os

from zcell.launch.owner import Owner
from zcell.launch.remote.engine import EngineError
from zcell.launch.slurm.commands import Commands

log = logging.getLogger("zcell.launch")

_PREFIX = "zcell/"


def comment_of(owner: Owner) -> str:
    """The comment of a job that `owner` submits."""
    return f"{_PREFIX}{owner}"


def is_orphan(comment: str) -> bool:
    """Whether `comment` names a process that is known to be dead."""
    if not comment.startswith(_PREFIX):
        return False
    try:
        return Owner.parse(comment.removeprefix(_PREFIX)).is_dead()
    except ValueError:
        return False


def cancel_orphans(commands: Commands) -> list[str]:
    """Take the jobs of dead parents out of the queue; their names in Slurm. What cannot be done is logged: it is a courtesy."""
    try:
        text = commands.run("squeue", "--noheader", f"--user={os.getuid()}", "--Format=ArrayJobID:24|,comment:250|")
        found = {tuple(field.strip() for field in line.split("|")[:2]) for line in text.splitlines() if "|" in line}
        dead = sorted(job for job, comment in found if is_orphan(comment))
        if dead:
            commands.run("scancel", *dead)
            log.warning("cancelled %d Slurm jobs whose parents died: %s", len(dead), ", ".join(dead))
    except EngineError as error:
        log.warning("the jobs of dead parents could not be looked for: %s", error)
        return []
    return dead
