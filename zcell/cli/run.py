"""``zcell run``. Invariant: it ends with the job's own code, or with one that says why the job's files did not travel."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.cli.exits import BY_FAILURE, USAGE, CommandError
from zcell.cli.interrupt import Interrupts
from zcell.cli.screen import Progress, Screen, files_text, seconds_text, size_text
from zcell.cli.share import below
from zcell.errors import LaunchError
from zcell.launch.spec import JobSpec, JobState
from zcell.limits import MIB
from zcell.workspace.stage import discard_stages

if TYPE_CHECKING:
    from zcell.cli.choosing import LauncherChoice
    from zcell.launch.handle import JobHandle
    from zcell.workspace.meter import WorkspaceProgress

OWNER = "server"
"""The name of the cell that owns the job's workspace."""
_ID_BYTES = 4
"""Random bytes that tell one job of a workspace from the next."""
_LOOK = 0.5
_PATIENCE = "interrupted: the job is ended as soon as its engine has answered; again to leave at once"


class PassedOn:
    """A job's output, passed on as it comes; only with ``--json`` anybody needs its lines."""

    def __init__(self, screen: Screen) -> None:
        self.takes_blocks = not screen.json
        self._screen = screen

    def __call__(self, stream: str, lines: bytes) -> None:
        self._screen.output(stream, lines)


class Transfers:
    """Shows the job's files travelling, both ways; remembers the last word of each."""

    TITLES = {"down": "shipping", "up": "bringing back"}  # noqa: RUF012  never changed

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._lock = threading.Lock()
        self._bars = ExitStack()
        self._draw: dict[str, Progress] = {}
        self.last: dict[str, WorkspaceProgress] = {}

    def __call__(self, event: WorkspaceProgress) -> None:
        with self._lock:
            self.last[event.direction] = event
            if event.direction not in self._draw:
                self._bars.close()
                self._draw[event.direction] = self._bars.enter_context(self._screen.progress(self.TITLES[event.direction]))
            self._draw[event.direction](event.bytes_done, event.bytes_total or None)
            if event.state != "ACTIVE":
                self._bars.close()
        if self._screen.json:
            self._screen.result(
                "progress",
                direction=event.direction,
                phase=event.phase,
                state=event.state,
                bytes=event.bytes_done,
                total_bytes=event.bytes_total,
                files=event.items_done,
                total_files=event.items_total,
            )

    def close(self) -> None:
        with self._lock:
            self._bars.close()


def run_job(
    workspace: Path,
    command: Sequence[str],
    *,
    launcher: LauncherChoice,
    results: Path | None,
    env: Sequence[str],
    excludes: Sequence[str],
    skip_links: bool,
    grace: float,
    json: bool,
) -> int:
    """Run `command` in a copy of `workspace`; the exit code."""
    from zcell.cell import Cell
    from zcell.security.secret import new_secret

    screen = Screen(json=json)
    spec = replace(_spec(workspace, command, results, env), skip_links=skip_links, grace=grace)
    spec = replace(spec, excludes=below(spec.job_id, excludes))
    # what a run that was killed had half brought back; its job is gone as well, so nobody will continue it
    discard_stages((results or workspace).resolve().parent, f"up-{spec.job_id[: -2 * _ID_BYTES]}" + "[0-9a-f]" * 2 * _ID_BYTES)
    transfers = Transfers(screen)
    began = time.monotonic()
    with Interrupts() as interrupts:
        patience = interrupts.abort.add_callback(lambda: screen.note(_PATIENCE))
        interrupts.again = lambda: _leave(screen, interrupts.exit_code)
        try:
            with (
                closing(launcher.make()) as starter,
                Cell(OWNER, listen=launcher.endpoints(starter), insecure=launcher.insecure, secret=new_secret()) as cell,
            ):
                handle = starter.launch(spec, cell, on_output=PassedOn(screen), on_progress=transfers)
                screen.result("started", job_id=spec.job_id, launcher=launcher.name, command=list(command))
                interrupts.abort.remove_callback(patience)
                interrupts.abort.add_callback(lambda: _ask_to_end(screen, handle))
                interrupts.again = lambda: _end_at_once(screen, handle)
                _wait(screen, handle)
                transfers.close()
        except LaunchError as error:
            if not interrupts.interrupted:
                raise
            raise CommandError(interrupts.exit_code, f"interrupted; nothing was started: {error}") from error
    return _conclude(screen, handle, results or workspace, time.monotonic() - began, interrupts.exit_code)


def _leave(screen: Screen, code: int) -> None:
    """From the thread that hears signals, while the main one waits for an engine that may never answer."""
    screen.note("interrupted again: left; what the engine may have started ends by itself, or with the next launch")
    os._exit(code)


def _wait(screen: Screen, handle: JobHandle) -> None:
    """Until the job has ended; says why it has not begun."""
    told = ""
    while not handle.enter_states({JobState.RUNNING, JobState.FINISHED}, _LOOK) and handle.state is JobState.PENDING:
        reason = handle.pending_reason
        if reason and reason != told:
            screen.note(f"job {handle.job_id} waits: {reason}")
            screen.result("waiting", job_id=handle.job_id, reason=reason)
            told = reason
    handle.wait()


def _spec(workspace: Path, command: Sequence[str], results: Path | None, env: Sequence[str]) -> JobSpec:
    if not workspace.is_dir():
        raise CommandError(USAGE, f"{workspace}: the workspace must be a directory")
    if results is not None:
        ours, theirs = workspace.resolve(), results.resolve()
        if ours == theirs:
            results = None
        elif ours in theirs.parents or theirs in ours.parents:
            raise CommandError(USAGE, f"--results {results}: must be neither inside the workspace {workspace} nor around it")
        elif results.exists() and not results.is_dir():
            raise CommandError(USAGE, f"--results {results}: is there already and no directory")
    variables = {}
    for item in env:
        name, equals, value = item.partition("=")
        if not equals:
            raise CommandError(USAGE, f"--env {item}: expected NAME=VALUE")
        variables[name] = value
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", workspace.resolve().name).strip("-")[:40] or "job"
    return JobSpec(
        job_id=f"{stem}-{secrets.token_hex(_ID_BYTES)}",
        command=command,
        job_directory=workspace.absolute(),
        results=results.absolute() if results is not None else None,
        env=variables,
    )


def _ask_to_end(screen: Screen, handle: JobHandle) -> None:
    if handle.state is JobState.PENDING:
        screen.note("interrupted: the job, which has not begun, is taken back; again to do so at once")
    else:
        screen.note(
            f"interrupted: the job gets {handle.spec.grace:g} s to end, then what there is comes back; again to end it at once"
        )
    handle.terminate(wait=False)


def _end_at_once(screen: Screen, handle: JobHandle) -> None:
    screen.note("interrupted again: the job is ended at once, nothing more comes back")
    handle.kill(wait=False)


def _conclude(screen: Screen, handle: JobHandle, where: Path, seconds: float, interrupted: int) -> int:
    """Say how it went and where things are; the exit code."""
    shipped, back = handle.files("command"), handle.files("ended")
    code = _exit_code(handle, interrupted)
    if handle.reason:
        screen.note(f"job {handle.job_id}: {handle.reason}")
    if back is not None:
        changed = f"{back['fetched_files']} of them new or changed"
        screen.note(f"results: {files_text(back['files'])}, {size_text(back['data_bytes'])} in {where}; {changed}")
        screen.note(f"digest:  {back['digest']}, of the manifest: names, sizes, modes and times")
        screen.note(f"time:    {seconds_text(seconds)}; {_travelled('shipped', shipped)}; {_travelled('brought back', back)}")
    elif handle.kept_where:
        screen.note(f"the results could not be brought back; {handle.kept_where}")
    elif handle.in_place:
        screen.note(f"nothing travelled: the job worked in {where} itself")
    else:
        screen.note(f"no results were brought back; {where} is as it was")
    if screen.json:
        screen.result(
            "summary",
            job_id=handle.job_id,
            outcome=handle.poll().name,
            reason=handle.reason,
            exit_code=code,
            job_exit_code=handle.exit_code,
            shipped=shipped,
            results=back,
            path=str(where) if back is not None else None,
            kept=str(handle.kept) if handle.kept is not None else handle.kept_where or None,
            seconds=round(seconds, 3),
        )
    return code


def _exit_code(handle: JobHandle, interrupted: int) -> int:
    if interrupted:
        return interrupted
    if handle.exit_code is None:
        return BY_FAILURE.get(handle.failure, 1)
    return handle.exit_code or BY_FAILURE.get(handle.failure, 0)


def _rate(files: dict[str, Any]) -> float:
    return float(files["fetched_bytes"]) / MIB / max(float(files["seconds"]), 1e-9)


def _travelled(what: str, files: dict[str, Any] | None) -> str:
    if files is None:
        return f"nothing {what}"
    size, seconds = size_text(files["fetched_bytes"]), seconds_text(files["seconds"])
    return f"{what} {files_text(files['fetched_files'])}, {size} in {seconds}, {_rate(files):.1f} MiB/s"
