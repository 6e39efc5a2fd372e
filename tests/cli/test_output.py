"""Standard streams that are full, closed or read no more."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, LIMIT, events, running, zcell

FULL = Path("/dev/full")
SAID = b"zcell: standard output cannot be written: No space left on device\n"


def in_shell(words: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """`words` is a shell's line in which $Z stands for the command."""
    script = f'Z="{" ".join(COMMAND)}"; {words}'
    return subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, timeout=LIMIT, check=False)


@pytest.mark.parametrize(
    "words", ["sum f", "sum --flat f f", "sum --json f", "doctor", "send f", "run d -- echo hello", "--help", "--version"]
)
def test_output_that_cannot_be_written_is_told_and_no_success(tmp_path: Path, words: str) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *words.split()], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=LIMIT, check=False
        )
    assert done.returncode == 2
    assert done.stderr.endswith(SAID)
    assert done.stderr.count(SAID) == 1
    assert b"Traceback" not in done.stderr


def test_a_fetched_file_is_there_though_nobody_could_be_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with running("send", "f", cwd=tmp_path) as sender:
        done = in_shell(f"{sender.line().replace('zcell', '$Z', 1)} --to here > /dev/full", tmp_path)
        assert (done.returncode, done.stderr) == (2, SAID)
        assert sender.finish()[0] == 0
    assert (tmp_path / "here/f").read_bytes() == b"x"


def test_a_failing_jobs_code_is_kept_when_its_output_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    done = in_shell("$Z run d -- sh -c 'echo out; exit 3' > /dev/full", tmp_path)
    assert done.returncode == 3
    assert done.stderr.endswith(SAID)


def test_a_closed_pipe_is_no_fault_and_ends_what_only_prints(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"f{number}").write_bytes(b"x")
    done = in_shell("$Z sum . | head -n 1; echo ${PIPESTATUS[0]}", tmp_path)
    first, code = done.stdout.decode().splitlines()
    assert first.endswith("  ./f0")
    assert code == "141"
    assert done.stderr == b""


def test_a_job_runs_to_its_end_though_nobody_reads_its_output(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    done = in_shell("$Z run d -- sh -c 'seq 50000; echo here > result; exit 3' | head -n 1; echo ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout == b"1\n3\n"
    assert b"cannot be written" not in done.stderr
    assert (tmp_path / "d/result").read_text() == "here\n"


@pytest.mark.parametrize(("closed", "code"), [(">&-", 3), ("2>&-", 3), (">&- 2>&-", 3), ("<&-", 3), ("<&- >&- 2>&-", 3)])
def test_streams_that_are_closed_change_nothing_for_a_job(tmp_path: Path, closed: str, code: int) -> None:
    (tmp_path / "d").mkdir()
    done = in_shell(f"$Z run d -- sh -c 'echo out; echo err >&2; echo here > result; exit 3' {closed}", tmp_path)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert b"AttributeError" not in done.stderr
    assert (tmp_path / "d/result").read_text() == "here\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("run d -- true 2>&-", 0),
        ("run d -- true >&-", 0),
        ("sum f >&-", 2),
        ("sum f 2>&-", 0),
        ("sum missing 2>&-", 2),
        ("sum - <&-", 2),
    ],
)
def test_only_results_that_were_lost_count(tmp_path: Path, words: str, code: int) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    done = in_shell(f"$Z {words}", tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if code and "2>&-" not in words:
        assert b"Bad file descriptor" in done.stderr


def test_a_pipe_that_does_not_block_gets_everything(tmp_path: Path) -> None:
    names = [f"{number:0200}" for number in range(2000)]
    for name in names:
        (tmp_path / name).touch()
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    with subprocess.Popen([*COMMAND, "sum", "."], cwd=tmp_path, stdout=mouth, stderr=subprocess.PIPE) as process:
        os.close(mouth)
        with os.fdopen(ear, "rb") as file:
            lines = file.read().splitlines()
        assert process.wait(LIMIT) == 0
    assert [line.decode().rpartition("./")[2] for line in lines] == names


@pytest.mark.parametrize("words", [["run", "--json"], ["sum", "--json", "--nonsense"], ["get", "--json", "tcp://127.0.0.1:1"]])
def test_a_wrong_command_line_is_an_error_event_too(words: list[str]) -> None:
    done = zcell(*words)
    assert done.returncode == 2
    (error,) = events(done.stdout, "error")
    assert error["exit_code"] == 2
    assert error["error"] in done.stderr.decode()


def test_a_json_of_the_jobs_own_is_not_ours(tmp_path: Path) -> None:
    done = zcell("run", "--nonsense", tmp_path, "--", "x", "--json")
    assert (done.returncode, done.stdout) == (2, b"")


def test_line_ends_that_only_some_readers_know_are_escaped(tmp_path: Path) -> None:
    text = "a\N{LINE SEPARATOR}b\N{NEXT LINE}c\N{LATIN SMALL LETTER E WITH ACUTE}"
    done = zcell("run", "--json", tmp_path, "--", "printf", text)
    assert [event["line"] for event in events(done.stdout, "output")] == [text]
