"""Whose jobs are in the queue. Invariant: only jobs of a process of this machine that is certainly dead are cancelled.

A job's comment names the process that submitted it. A running job of a dead parent ends by its lease; one that still waits in the
queue would only find that out once it starts, so the next launcher on the same machine takes it out.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from zcell.launch.remote.engine import EngineError
from zcell.launch.slurm.commands import Commands

log = logging.getLogger("zcell.launch")

_PREFIX = "zcell"


def this_process() -> str:
    """The mark of this process: machine, boot, process id, and when it started, since process ids are used again."""
    return mark(os.getpid())


def mark(pid: int) -> str:
    """The mark of the process `pid` of this machine. Raises `OSError` when there is none."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return f"{_PREFIX}/{socket.gethostname()}/{boot}/{pid}/{_started(pid)}"


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]


def is_dead(comment: str) -> bool:
    """Whether `comment` names a process of this machine that does not live any more."""
    parts = comment.split("/")
    if len(parts) != 5 or parts[0] != _PREFIX or parts[1] != socket.gethostname() or not parts[3].isdigit():
        return False
    try:
        return mark(int(parts[3])) != comment
    except OSError:
        return True


def cancel_orphans(commands: Commands) -> list[str]:
    """Take the jobs of dead parents out of the queue; their names in Slurm. What cannot be done is logged: it is a courtesy."""
    try:
        text = commands.run("squeue", "--noheader", f"--user={os.getuid()}", "--Format=ArrayJobID:24|,comment:250|")
        found = {tuple(field.strip() for field in line.split("|")[:2]) for line in text.splitlines() if "|" in line}
        dead = sorted(job for job, comment in found if is_dead(comment))
        if dead:
            commands.run("scancel", *dead)
            log.warning("cancelled %d Slurm jobs whose parents died: %s", len(dead), ", ".join(dead))
    except EngineError as error:
        log.warning("the jobs of dead parents could not be looked for: %s", error)
        return []
    return dead
