"""`zcell run`: a directory becomes a job and comes back."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, Running, events, json_lines, running, zcell
from tests.eventually import eventually

WRITE = "from pathlib import Path; Path('out').mkdir(exist_ok=True); Path('out/result').write_text('done')"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A small workspace with something of everything that is easily lost on the way."""
    place = tmp_path / "ws"
    (place / "data/empty").mkdir(parents=True)
    (place / "script.sh").write_text("#!/bin/sh\ncat data/input\n")
    (place / "script.sh").chmod(0o755)
    (place / "data/input").write_text("seven\n")
    (place / "data/größe").write_text("x")
    return place


def tree(place: Path) -> dict[str, tuple[int, bytes | None]]:
    """Mode and content of everything below `place`."""
    return {
        str(path.relative_to(place)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes() if path.is_file() else None)
        for path in place.rglob("*")
    }


def python(source: str) -> list[str]:
    return ["--", sys.executable, "-c", source]


def started(command: Running) -> None:
    """Until the job of `zcell run --json` has written its first line."""
    while json.loads(command.line())["event"] != "output":
        continue


def test_the_results_are_found_back_in_the_directory(workspace: Path) -> None:
    before = tree(workspace)
    done = zcell(
        "run",
        workspace,
        "--",
        "sh",
        "-c",
        "./script.sh; echo new > data/output; rm data/größe; mkdir more; chmod 640 script.sh",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"seven\n"
    after = tree(workspace)
    assert after.pop("data/output") == (0o644, b"new\n")
    assert after.pop("more")[1] is None
    assert after.pop("script.sh")[0] == 0o640
    before.pop("script.sh")
    before.pop("data/größe")
    assert after == before
    assert [path.name for path in workspace.parent.iterdir()] == ["ws"]


def test_results_go_elsewhere_and_the_workspace_stays_as_it_is(workspace: Path, tmp_path: Path) -> None:
    before = tree(workspace)
    done = zcell("run", "--results", tmp_path / "deep/out", workspace, *python(WRITE + "; Path('data/input').unlink()"))
    assert done.returncode == 0, done.stderr
    assert tree(workspace) == before
    assert (tmp_path / "deep/out/out/result").read_text() == "done"
    assert not (tmp_path / "deep/out/data/input").exists()
    assert (tmp_path / "deep/out/script.sh").stat().st_mode & 0o777 == 0o755


def test_a_failing_command_returns_its_code_and_still_brings_back_what_it_wrote(workspace: Path, tmp_path: Path) -> None:
    done = zcell("run", "--results", tmp_path / "out", workspace, *python(WRITE + "; raise SystemExit(42)"))
    assert done.returncode == 42
    assert (tmp_path / "out/out/result").read_text() == "done"
    assert "the command ended with code 42" in done.stderr.decode()


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_command_that_a_signal_ended_returns_128_more(workspace: Path, number: signal.Signals, name: str) -> None:
    done = zcell("run", workspace, "--", "sh", "-c", f"echo half > data/output; kill -{number} $$")
    assert done.returncode == 128 + number
    assert f"the command was ended by {name}" in done.stderr.decode()
    assert (workspace / "data/output").read_text() == "half\n"


def test_a_code_above_128_that_is_no_signal_is_a_code(workspace: Path) -> None:
    done = zcell("run", workspace, "--", "sh", "-c", "exit 255")
    assert done.returncode == 255
    assert "the command ended with code 255" in done.stderr.decode()


def test_a_program_that_is_not_there_ends_with_127(workspace: Path) -> None:
    done = zcell("run", workspace, "--", "no-such-program")
    assert done.returncode == 127
    assert "no program 'no-such-program' on PATH" in done.stderr.decode()


def test_standard_output_and_error_are_passed_on_byte_for_byte(workspace: Path) -> None:
    source = r"import os; os.write(1, b'a\xff\nlast'); os.write(2, b'zcell-like noise\n')"
    done = zcell("run", workspace, *python(source))
    assert done.stdout == b"a\xff\nlast"
    assert b"zcell-like noise\n" in done.stderr


def test_output_comes_while_the_job_runs(workspace: Path) -> None:
    with running("run", workspace, *python("print('first'); import time; time.sleep(60)")) as command:
        assert command.line() == "first"
        assert command.process.poll() is None
        command.signal(signal.SIGTERM)
        assert command.finish()[0] == 128 + signal.SIGTERM


def test_json_is_one_object_a_line_with_output_progress_and_a_summary(workspace: Path) -> None:
    done = zcell("run", "--json", workspace, "--", "sh", "-c", "./script.sh; echo oops >&2; exit 3")
    assert done.returncode == 3
    lines = json_lines(done.stdout)
    assert lines[0]["event"] == "started" or lines[0]["event"] == "progress"
    assert [(x["stream"], x["line"]) for x in sorted(events(done.stdout, "output"), key=lambda x: str(x["stream"]))] == [
        ("stderr", "oops"),
        ("stdout", "seven"),
    ]
    assert {(x["direction"], x["state"]) for x in events(done.stdout, "progress")} >= {("up", "COMPLETED")}
    summary = lines[-1]
    assert summary["event"] == "summary"
    assert (summary["outcome"], summary["exit_code"], summary["job_exit_code"]) == ("EXECUTION_ERROR", 3, 3)
    assert summary["results"]["files"] == 3
    assert summary["shipped"]["files"] == 3
    assert summary["results"]["digest"].startswith("sha256-tree:")
    assert Path(summary["path"]) == workspace


def test_variables_reach_the_command(workspace: Path) -> None:
    done = zcell("run", "--env", "LEVEL=a=b", "--env", "EMPTY=", workspace, "--", "sh", "-c", 'echo "$LEVEL|$EMPTY"')
    assert done.stdout == b"a=b|\n"


def test_an_option_of_the_command_is_not_one_of_zcell(workspace: Path) -> None:
    done = zcell("run", workspace, "--", "echo", "--json", "--", "-x")
    assert done.stdout == b"--json -- -x\n"


def test_startup_never_travels(workspace: Path) -> None:
    for name in ("startup", "local"):
        (workspace / name).mkdir()
    (workspace / "startup/key").write_text("secret")
    (workspace / "local/study_data.yaml").write_text("secret")
    (workspace / "local/site.json").write_text("{}")
    script = "find . -type f; mkdir -p startup local; echo mine > startup/key; echo mine > local/study_data.yaml"
    done = zcell("run", workspace, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.decode().split()) == ["./data/größe", "./data/input", "./local/site.json", "./script.sh"]
    assert (workspace / "startup/key").read_text() == "secret"
    assert (workspace / "local/study_data.yaml").read_text() == "secret"


def test_a_link_in_the_workspace_is_refused_by_name_or_skipped_when_asked(workspace: Path) -> None:
    (workspace / "data/link").symlink_to("/etc/passwd")
    done = zcell("run", workspace, "--", "true")
    assert done.returncode == 5
    assert "data/link" in done.stderr.decode()
    done = zcell("run", "--skip-links", workspace, "--", "ls", "data")
    assert done.returncode == 0
    assert b"link" not in done.stdout
    assert (workspace / "data/link").is_symlink()


def test_a_link_that_the_job_made_is_left_out_with_a_warning(workspace: Path) -> None:
    done = zcell("run", workspace, "--", "sh", "-c", "ln -s /etc/passwd data/latest; echo x > data/output")
    assert done.returncode == 0
    assert not (workspace / "data/latest").is_symlink()
    assert (workspace / "data/output").read_text() == "x\n"
    assert "data/latest" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing", "--", "true"], "must be a directory"),
        (["ws/script.sh", "--", "true"], "must be a directory"),
        (["--results", "ws/out", "ws", "--", "true"], "neither inside"),
        (["--results", ".", "ws", "--", "true"], "nor around"),
        (["--results", "file", "ws", "--", "true"], "no directory"),
        (["--results", "file/out", "ws", "--", "true"], "/file/out: not a directory"),
        (["--results", "", "ws", "--", "true"], "name is empty"),
        (["", "--", "true"], "name is empty"),
        (["--exclude", "*", "ws", "--", "true"], "matches the directory of job"),
        (["--env", "X", "ws", "--", "true"], "NAME=VALUE"),
        (["--env", "1X=1", "ws", "--", "true"], "env"),
        (["--env", "ZCELL_OWNER=1", "ws", "--", "true"], "launcher's"),
        (["--launcher", "podman", "ws", "--", "true"], "installed: "),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(workspace: Path, arguments: list[str], expected: str) -> None:
    (workspace.parent / "file").touch()
    done = zcell("run", *arguments, cwd=workspace.parent)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_ctrl_c_ends_the_job_and_still_brings_back_what_there_is(workspace: Path) -> None:
    script = "trap 'echo cleaned > data/cleaned; exit 0' TERM; echo half > data/output; echo up; while :; do sleep 0.05; done"
    with running("run", "--json", workspace, "--", "sh", "-c", script) as command:
        started(command)
        command.signal(signal.SIGINT)
        code, rest = command.finish()
    assert code == 130
    assert (workspace / "data/output").read_text() == "half\n"
    assert (workspace / "data/cleaned").read_text() == "cleaned\n"
    (summary,) = events(rest, "summary")
    assert (summary["outcome"], summary["exit_code"]) == ("ABORTED", 130)
    assert "then what there is comes back" in command.errors


def test_a_second_ctrl_c_ends_a_stubborn_job_at_once(workspace: Path) -> None:
    before = tree(workspace)
    script = "trap '' TERM; echo half > data/output; echo up; while :; do sleep 0.05; done"
    with running("run", "--json", "--grace", 300, workspace, "--", "sh", "-c", script) as command:
        started(command)
        command.signal(signal.SIGINT)
        eventually(lambda: "interrupted:" in command.errors, 20)
        command.signal(signal.SIGINT)
        assert command.finish()[0] == 130
    assert "as it was" in command.errors
    assert tree(workspace) == before


def test_killing_zcell_leaves_no_process_no_file_and_an_untouched_workspace(workspace: Path) -> None:
    before = tree(workspace)
    script = "trap '' TERM; echo half > data/output; echo up; while :; do sleep 0.05; done"
    with running("run", "--json", "--grace", 0.2, workspace, "--", "sh", "-c", script) as command:
        started(command)
        command.process.kill()
    assert tree(workspace) == before
    eventually(lambda: not list(Path(tempfile.gettempdir()).glob("zcell-job-*")), 20)


def test_nothing_secret_shows_in_any_process_of_a_run(workspace: Path) -> None:
    """The job hands out what it may read; none of it is in an argv or an environment."""
    source = "import json, os; print(open(os.environ['ZCELL_CREDENTIALS']).read(), flush=True); import time; time.sleep(60)"
    with running("run", "--json", workspace, *python(source)) as command:
        while (line := json.loads(command.line()))["event"] != "output":
            continue
        secrets = [value for value in json.loads(line["line"]).values() if value]
        assert len(secrets) == 2
        shown = b""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                shown += _read(entry / "cmdline") + _read(entry / "environ")
        assert b"zcell.launch.job" in shown
        for secret in secrets:
            assert secret.encode() not in shown
            assert bytes.fromhex(secret) not in shown
        command.signal(signal.SIGINT)
        assert command.finish()[0] == 130


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_results_that_cannot_be_brought_back_are_kept_and_the_place_is_named(workspace: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"  # becomes a file while the job runs, so that no directory can be made below it
    done = zcell(
        "run", "--json", "--results", blocked / "out", workspace, "--", "sh", "-c", f"echo mine > result; touch {blocked}"
    )
    assert done.returncode == 4, "a job whose results are lost has not succeeded"
    (summary,) = events(done.stdout, "summary")
    assert summary["job_exit_code"] == 0
    kept = Path(summary["kept"])
    assert (kept / "result").read_text() == "mine\n"
    said = done.stderr.decode()
    assert f"they are kept in {kept}" in said
    assert said.count(f"cannot be put in place as {blocked / 'out'}: File exists") == 1, said
    assert sorted(path.name for path in kept.parent.parent.iterdir()) == ["workspace"], "no credentials stay behind"
    assert zcell("run", workspace, "--", "true").returncode == 0
    assert kept.exists(), "the next job must not sweep it away"
    shutil.rmtree(kept.parent.parent)


def test_a_job_that_removed_its_directory_has_no_results_and_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    done = zcell("run", "--json", "--results", tmp_path / "out", workspace, "--", "sh", "-c", 'rm -r "$PWD"')
    assert done.returncode == 4
    (summary,) = events(done.stdout, "summary")
    assert (summary["kept"], summary["path"]) == (None, None)
    assert "so there are no results" in summary["reason"]
    assert not list(Path(tempfile.gettempdir()).glob("zcell-job-*"))


def test_results_may_go_through_a_link_that_the_user_named(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert zcell("run", "--results", tmp_path / "link", workspace, "--", "sh", "-c", "echo hi > new").returncode == 0
    assert (tmp_path / "real/new").read_text() == "hi\n"
    assert (tmp_path / "link").is_symlink()


def test_what_a_killed_run_left_half_brought_back_goes_with_the_next_one(workspace: Path, tmp_path: Path) -> None:
    dead, theirs = tmp_path / f".zcell-up-{workspace.name}-0123abcd", tmp_path / ".zcell-up-other-0123abcd"
    for stage in (dead, theirs):
        stage.mkdir(mode=0o700)
        (stage / "half").write_bytes(b"x")
    assert zcell("run", "--results", tmp_path / "out", workspace, "--", "true").returncode == 0
    assert (dead.exists(), theirs.exists()) == (False, True)


def test_what_was_edited_at_home_while_the_job_ran_stays(workspace: Path) -> None:
    with running("run", "--json", workspace, "--", "sh", "-c", "echo job > data/job; echo up; sleep 60") as command:
        started(command)
        (workspace / "data/input").write_text("edited at home")
        command.signal(signal.SIGINT)
        command.finish()
    assert (workspace / "data/input").read_text() == "edited at home"
    assert (workspace / "data/job").read_text() == "job\n"


def test_what_is_excluded_stays_at_home_and_is_not_removed(workspace: Path) -> None:
    (workspace / "data/raw").mkdir()
    for name in ("data/raw/huge", "a.pyc", "data/b.pyc"):
        (workspace / name).write_text("x")
    done = zcell("run", "--exclude", "*.pyc", "--exclude", "data/raw", workspace, "--", "find", ".", "-type", "f")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.decode().split()) == ["./data/größe", "./data/input", "./script.sh"]
    assert all((workspace / name).exists() for name in ("data/raw/huge", "a.pyc", "data/b.pyc"))


def test_excluded_results_are_left_out_with_a_warning(workspace: Path) -> None:
    done = zcell("run", "--exclude", "*.log", workspace, "--", "sh", "-c", "echo 1 > data/a.log; echo 2 > kept")
    assert done.returncode == 0
    assert (workspace / "kept").exists()
    assert not (workspace / "data/a.log").exists()
    assert "left out of the results, for the excludes say so" in done.stderr.decode()
    assert "data/a.log'" in done.stderr.decode()


def test_a_job_goes_on_when_nobody_reads_its_output_any_more(workspace: Path) -> None:
    script = "echo first; sleep 0.5; for i in 1 2 3; do echo more; done; echo done > out"
    with running("run", workspace, "--", "sh", "-c", script) as command:
        assert command.line() == "first"
        assert command.process.stdout is not None
        command.process.stdout.close()
        assert command.process.wait(60) == 0
    assert (workspace / "out").read_text() == "done\n"
    assert "Traceback" not in command.errors


def test_a_terminal_that_goes_away_ends_the_job_and_still_brings_back_what_there_is(workspace: Path) -> None:
    terminal, inner = os.openpty()
    script = "echo half > data/output; echo up; sleep 60"
    process = subprocess.Popen(
        [*COMMAND, "run", str(workspace), "--", "sh", "-c", script],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(inner)
    shown = b""
    while b"up\r\n" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert (workspace / "data/output").read_text() == "half\n"
