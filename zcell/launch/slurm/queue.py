"""What Slurm says of jobs. Invariant: an answer that cannot be read is an error; it never becomes a state.

From ``squeue``, which lists a job that has ended for some minutes more; from ``sacct`` afterwards, where there is accounting.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from zcell.launch.ending import how_it_ended
from zcell.launch.remote.course import EngineState, EngineView, Outcome
from zcell.launch.remote.engine import EngineError
from zcell.launch.remote.refusal import REASONS, Refusal
from zcell.launch.slurm.commands import Commands, SlurmError
from zcell.launch.spec import JobReturnCode

_FIELDS = (
    ("ArrayJobID", 24),
    ("ArrayTaskID", 24),
    ("JobID", 24),
    ("State", 24),
    ("exit_code", 24),
    ("RestartCnt", 12),
    ("NodeList", 200),
    ("Reason", 200),
)
FORMAT = ",".join(f"{name}:{width}|" for name, width in _FIELDS)
SACCT_FORMAT = "JobID,State,ExitCode"

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "SUSPENDED", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
_SETUP_FAILED = 53
"""What a job's exit code has for its signal when slurmd could not open its output or its directory."""
_BY_ENGINE = {
    "CANCELLED": (JobReturnCode.ABORTED, "it was cancelled in Slurm"),
    "TIMEOUT": (JobReturnCode.ABORTED, "its time limit was reached (TIMEOUT); ask for more with the resource time_limit"),
    "DEADLINE": (JobReturnCode.ABORTED, "its deadline in Slurm has passed (DEADLINE)"),
    "PREEMPTED": (JobReturnCode.ABORTED, "a job of higher priority took its place (PREEMPTED)"),
    "NODE_FAIL": (JobReturnCode.ABORTED, "its node failed (NODE_FAIL)"),
    "BOOT_FAIL": (JobReturnCode.ABORTED, "its node did not boot (BOOT_FAIL)"),
    "REVOKED": (JobReturnCode.ABORTED, "another cluster runs it (REVOKED)"),
    "OUT_OF_MEMORY": (
        JobReturnCode.EXECUTION_ERROR,
        "it used more memory than it asked for (OUT_OF_MEMORY); ask for more with the resource memory",
    ),
}
HOPELESS = {
    "launch_failed_requeued_held": "Slurm could not start it on its node and holds it back",
    "launch failed requeued held": "Slurm could not start it on its node and holds it back",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives",
    "BadConstraints": "no node can ever fulfil what it asks for",
    "InvalidAccount": "Slurm does not know its account",
    "InvalidQOS": "Slurm does not know its quality of service",
    "job_requeued_in_held_state": "it was put back into the queue and is held there",
}
"""Reasons of a pending job that no waiting cures."""


@dataclass(frozen=True)
class Row:
    """One job, or one task of an array, in Slurm's words."""

    job: str
    """What sbatch named: ID, or ARRAY_TASK."""
    raw: str
    """The plain number that every started job has."""
    state: str
    status: int
    """As wait(2) would give it."""
    restarts: int = 0
    nodes: str = ""
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the state is one that does not change any more."""
        return self.state not in _PENDING | _RUNNING

    def view(self) -> EngineView:
        """Raises `EngineError` for a state that this version does not know."""
        if self.state in _PENDING:
            held = self.state.startswith("REQUEUE")
            return EngineView(EngineState.PENDING, reason=self.reason, run=self.restarts + held)
        if self.state in _RUNNING:
            return EngineView(EngineState.RUNNING, run=self.restarts)
        code = os.waitstatus_to_exitcode(self.status) if self.status >= 0 else 1
        code = 128 - code if code < 0 else code
        if self.state in _BY_ENGINE:
            outcome, text = _BY_ENGINE[self.state]
            return EngineView(
                EngineState.ENDED, outcome=Outcome(outcome, text, code or None), by_engine=True, run=self.restarts
            )
        if self.state in ("COMPLETED", "FAILED"):
            return EngineView(EngineState.ENDED, outcome=_own_end(code, self), run=self.restarts)
        raise EngineError(f"job {self.job} is in the state {self.state!r}, which this version of zcell does not know")


def _own_end(code: int, row: Row) -> Outcome:
    if code in REASONS:
        where = f" (node {row.nodes})" if row.nodes else ""
        return Outcome(JobReturnCode.EXECUTION_ERROR, REASONS[Refusal(code)] + where, code)
    if code == 128 + _SETUP_FAILED:
        reason = "Slurm could not set the job up on its node: is the setting output a file that can be written there?"
        return Outcome(JobReturnCode.EXECUTION_ERROR, reason, code)
    if code > 128:
        return Outcome(JobReturnCode.EXECUTION_ERROR, how_it_ended("its node", code), code)
    outcome = JobReturnCode.from_exit_code(code) if row.state == "COMPLETED" or code else JobReturnCode.EXECUTION_ERROR
    return Outcome(outcome, f"its node ended with code {code}" if outcome is not JobReturnCode.SUCCESS else "", code)


def parse_squeue(text: str) -> list[Row]:
    """Rows of ``squeue --noheader --Format=FORMAT``. Raises `EngineError` for a line that is not one."""
    rows = []
    for line in filter(str.strip, text.splitlines()):
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != len(_FIELDS) + 1:
            raise EngineError(f"squeue wrote a line that cannot be read: {line!r}")
        array, task, raw, state, status, restarts, nodes, reason = fields[:-1]
        job = f"{array}_{task}" if task.isdigit() else array
        try:
            rows.append(Row(job, raw, state, int(status), int(restarts or 0), nodes, "" if reason == "None" else reason))
        except ValueError as error:
            raise EngineError(f"squeue wrote a line that cannot be read: {line!r}") from error
    return rows


def parse_sacct(text: str) -> list[Row]:
    """Rows of ``sacct --noheader --parsable2 --allocations --format=SACCT_FORMAT``. Raises `EngineError`."""
    rows = []
    for line in filter(str.strip, text.splitlines()):
        fields = line.split("|")
        if len(fields) != 3:
            raise EngineError(f"sacct wrote a line that cannot be read: {line!r}")
        job, state, ended = fields
        code, _, number = ended.partition(":")
        try:
            status = int(code) << 8 | int(number or 0)
        except ValueError as error:
            raise EngineError(f"sacct wrote a line that cannot be read: {line!r}") from error
        rows.append(Row(job, job, (state.split() or [""])[0].rstrip("+"), status))  # "CANCELLED by 1000"
    return rows


class Queue:
    """Asks squeue, and sacct for what squeue lists no more."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._accounting: bool | None = None

    def rows(self, jobs: Iterable[str]) -> dict[str, Row]:
        """By the job's name as sbatch gave it; what nobody lists is missing. Raises `EngineError`."""
        wanted = set(jobs)
        found = {row.job: row for row in self._squeue({job.partition("_")[0] for job in wanted}) if row.job in wanted}
        missing = wanted - found.keys()
        if missing and self.has_accounting():
            found |= {row.job: row for row in self._sacct(missing) if row.job in missing and row.has_ended}
        return found

    def has_accounting(self) -> bool:
        """Whether this cluster keeps account of jobs; asked once."""
        if self._accounting is None:
            text = self._commands.run("scontrol", "show", "config")
            kinds = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("AccountingStorageType")]
            self._accounting = bool(kinds) and not kinds[0].endswith("/none")
        return self._accounting

    def _squeue(self, jobs: set[str]) -> list[Row]:
        try:
            text = self._commands.run(
                "squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(sorted(jobs))}", f"--Format={FORMAT}"
            )
        except SlurmError as error:
            if "Invalid job id" in error.text:  # said of a single job only; several that are gone are just not listed
                return []
            raise
        return parse_squeue(text)

    def _sacct(self, jobs: set[str]) -> list[Row]:
        text = self._commands.run(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--duplicates",
            f"--jobs={','.join(sorted(jobs))}",
            f"--format={SACCT_FORMAT}",
        )
        return parse_sacct(text)
