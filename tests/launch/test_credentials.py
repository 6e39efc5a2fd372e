"""The hand-over file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from zcell.launch.credentials import Credentials, credentials_from_env, read_credentials, remove_credentials, write_credentials

SECRET = bytes(range(32))


def test_what_was_written_is_read_and_only_the_owner_can(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    write_credentials(path, Credentials(SECRET, "token"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_credentials(path) == Credentials(SECRET, "token")
    assert credentials_from_env({"ZCELL_CREDENTIALS": str(path)}) == Credentials(SECRET, "token")
    assert credentials_from_env({}) is None
    remove_credentials(path)
    remove_credentials(path)
    assert not path.exists()


def test_nothing_that_is_there_is_overwritten_or_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    link = tmp_path / "link"
    link.symlink_to(target)
    for path in (target, link):
        with pytest.raises(FileExistsError):
            write_credentials(path, Credentials(SECRET))
    assert target.read_text() == ""


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    write_credentials(path, Credentials(SECRET))
    path.chmod(0o640)
    with pytest.raises(PermissionError, match=r"0640.*chmod 600"):
        read_credentials(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no credentials"),
        ("[]", "no credentials"),
        ("x" * 70_000, "no credentials"),
        ("{}", "link_secret"),
        (json.dumps({"link_secret": 5}), "link_secret"),
        (json.dumps({"link_secret": "zz"}), "link_secret"),
        (json.dumps({"link_secret": "00"}), "at least 16"),
        (json.dumps({"link_secret": "00" * 16, "transfer_token": 1}), "transfer_token"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_field_and_no_secret(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=expected):
        read_credentials(path)


def test_credentials_never_show_themselves() -> None:
    shown = repr(Credentials(SECRET, "the token")) + str(Credentials(SECRET, "the token"))
    assert "token" not in shown.replace("transfer_token", "")
    assert SECRET.hex()[:8] not in shown
