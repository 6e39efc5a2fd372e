"""What ``zcell send`` and ``zcell get`` have in common. Invariant: an address that other machines reach needs a secret of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zcell.cell.endpoints import check_endpoint, is_local
from zcell.cli.exits import USAGE, CommandError

CHANNEL = "zcell.share"
DESCRIBE, CONFIRM, FAILED = "describe", "confirm", "failed"
FILE, DIRECTORY = "file", "directory"
MAX_NAME_BYTES = 240
SENDER = "server"
"""The name of the cell that offers."""


def below(name: str, patterns: Sequence[str]) -> list[str]:
    """Exclude patterns relative to a directory that travels under `name`; those without a slash match at any depth already."""
    return [f"{name}/{pattern}" if "/" in pattern.rstrip("/") else pattern for pattern in patterns]


def name_fault(name: str) -> str:
    """Why nothing can travel under `name`, ``""`` when it can: it must be one plain name that every machine can write down."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is no valid UTF-8"
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return "it is no plain file name"
    return f"it has {size} bytes, at most {MAX_NAME_BYTES} are allowed" if size > MAX_NAME_BYTES else ""


def check_address(url: str, what: str, insecure: bool) -> None:
    """Raise `ValueError` for what is no address, `CommandError` for one that other machines reach, unless that was asked for."""
    if not insecure and not is_local(check_endpoint(url, what)):
        raise CommandError(
            USAGE,
            f"{what}: {url} can be reached from other machines, and nothing is encrypted on the way: accept that with --insecure and "
            "--secret-file FILE on both sides, or use an address of this machine",
        )


def checked_secret(insecure: bool, secret_file: Path | None, *, create: bool = False) -> Path | None:
    """The file with the link secret, None for this user's own. With `create` a missing file is made."""
    if insecure and secret_file is None:
        raise CommandError(
            USAGE,
            "--insecure needs --secret-file FILE, the same on both sides: whoever knows its content may fetch, and your own secret "
            "must not leave this machine",
        )
    if secret_file is None:
        return None
    if not secret_file.exists():
        if not create:
            raise CommandError(USAGE, f"--secret-file {secret_file}: there is no such file; copy the sender's, with mode 0600")
        from zcell.security.secret import new_secret, write_secret

        write_secret(secret_file, new_secret())
    return secret_file
