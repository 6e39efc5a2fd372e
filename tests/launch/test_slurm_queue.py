"""Reading Slurm's answers. The lines of squeue and sacct were written by Slurm 22.05."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zcell.launch.owner import Owner
from zcell.launch.remote import EngineError, EngineState
from zcell.launch.slurm.orphans import comment_of, is_orphan
from zcell.launch.slurm.queue import Row, parse_sacct, parse_squeue
from zcell.launch.spec import JobReturnCode

SQUEUE = """\
4  |0  |4  |FAILED  |768  |0  |vm  |NonZeroExitCode  |
3  |2  |3  |PENDING  |0  |0  |  |JobArrayTaskLimit  |
17  |N/A  |17  |RUNNING  |0  |2  |vm  |None  |
"""


def row(state: str, status: int = 0, **fields: object) -> Row:
    return Row("7", "7", state, status, **fields)  # type: ignore[arg-type]


def test_squeue_is_read() -> None:
    failed, pending, running = parse_squeue(SQUEUE)
    assert (failed.job, failed.raw, failed.state, failed.status) == ("4_0", "4", "FAILED", 768)
    assert (pending.job, pending.reason) == ("3_2", "JobArrayTaskLimit")
    assert (running.job, running.restarts, running.nodes, running.reason) == ("17", 2, "vm", "")


def test_sacct_is_read() -> None:
    rows = parse_sacct("1|FAILED|3:0\n5_2|CANCELLED by 1000|0:15\n6|OUT_OF_ME+|0:125\n\n")
    assert [(r.job, r.state, r.status) for r in rows] == [
        ("1", "FAILED", 768),
        ("5_2", "CANCELLED", 15),
        ("6", "OUT_OF_ME", 125),
    ]


@pytest.mark.parametrize("text", ["nonsense", "1|2|3|RUNNING|x|0|vm|None|", "1|RUNNING"])
def test_what_cannot_be_read_is_an_error_and_no_state(text: str) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        parse_squeue(text)
    with pytest.raises(EngineError, match="cannot be read"):
        parse_sacct(text + "|")


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_states_of_a_job_that_waits(state: str) -> None:
    assert row(state).view().state is EngineState.PENDING


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED", "COMPLETING", "STAGE_OUT"])
def test_states_of_a_job_that_runs(state: str) -> None:
    assert row(state).view().state is EngineState.RUNNING


@pytest.mark.parametrize(
    ("state", "status", "code", "exit_code", "text"),
    [
        ("COMPLETED", 0, JobReturnCode.SUCCESS, 0, ""),
        ("FAILED", 3 << 8, JobReturnCode.EXECUTION_ERROR, 3, "its node ended with code 3"),
        ("FAILED", 9 << 8, JobReturnCode.ABORTED, 9, "its node ended with code 9"),
        ("FAILED", 9, JobReturnCode.EXECUTION_ERROR, 137, "its node was ended by SIGKILL"),
        (
            "FAILED",
            53,
            JobReturnCode.EXECUTION_ERROR,
            181,
            "Slurm could not set the job up on its node: is the setting output ",
        ),
        ("FAILED", 0, JobReturnCode.EXECUTION_ERROR, 0, "its node ended with code 0"),
        ("FAILED", 121 << 8, JobReturnCode.EXECUTION_ERROR, 121, "no python with zcell"),
        ("FAILED", 122 << 8, JobReturnCode.EXECUTION_ERROR, 122, "credentials did not reach"),
        ("CANCELLED", 15, JobReturnCode.ABORTED, 143, "cancelled in Slurm"),
        ("TIMEOUT", 0, JobReturnCode.ABORTED, None, "time limit"),
        ("NODE_FAIL", 0, JobReturnCode.ABORTED, None, "node failed"),
        ("PREEMPTED", 0, JobReturnCode.ABORTED, None, "higher priority"),
        ("OUT_OF_MEMORY", 0, JobReturnCode.EXECUTION_ERROR, None, "more memory"),
    ],
)
def test_how_an_end_counts(state: str, status: int, code: JobReturnCode, exit_code: int | None, text: str) -> None:
    view = row(state, status).view()
    assert view.state is EngineState.ENDED
    assert view.outcome is not None
    assert (view.outcome.code, view.outcome.exit_code) == (code, exit_code)
    assert text in view.outcome.reason


def test_a_state_of_a_later_slurm_is_an_error_and_no_end() -> None:
    with pytest.raises(EngineError, match="the state 'DREAMING'"):
        row("DREAMING").view()


def test_a_job_that_was_put_back_counts_its_runs() -> None:
    assert row("PENDING", restarts=1).view().run == 1
    assert row("REQUEUED", restarts=1).view().run == 2


def test_only_jobs_of_a_dead_process_are_orphans() -> None:
    mine = Owner.here()
    assert not is_orphan(comment_of(mine))
    assert is_orphan(comment_of(replace(mine, started=mine.started + 1)))
    assert not is_orphan(comment_of(replace(mine, machine="elsewhere")))
    for comment in ("(null)", "", "zcell/", "zcell/a:b", "somebody's own"):
        assert not is_orphan(comment)
