"""`zcell doctor`, `--version`, `--help`."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from tests.cli.commands import events, zcell
from zcell.digest import kernel, kernels

COMMANDS = ["run", "send", "get", "sum", "doctor"]


def test_it_names_versions_and_kernels_and_tests_what_works() -> None:
    done = zcell("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["name"]: finding for finding in events(done.stdout, "finding")}
    assert found["zcell"]["text"] == version("zcell")
    assert found["pyzmq"]["text"] == version("pyzmq")
    assert found["CURVE"]["text"].startswith(("present", "absent"))
    assert kernel() in found["SHA-256 kernel"]["text"]
    assert all(name in found["SHA-256 kernel"]["text"] for name in kernels())
    assert all(found[f"test: {name}"]["ok"] for name in ("digest", "zip", "link"))


def test_a_kernel_that_cannot_be_had_is_told_with_its_own_exit_code() -> None:
    done = zcell("doctor", env={"ZCELL_SHA256_KERNEL": "abacus"})
    assert done.returncode == 2
    assert "abacus" in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_the_version_is_printed() -> None:
    assert zcell("--version").stdout.decode() == f"zcell {version('zcell')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_exit_codes(command: str) -> None:
    done = zcell(command, "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.decode().split())
    assert "--json" in text
    assert "Exit codes: 0 done; for run, the job's own code, 1 when its engine ended it; 2 usage" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("arguments", [["nonsense"], ["sum"], ["run", "."], ["send", "--receivers", "0", "."], ["get", "x"]])
def test_wrong_usage_ends_with_2_and_says_so_on_standard_error(arguments: list[str]) -> None:
    done = zcell(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"Usage:" in done.stderr
