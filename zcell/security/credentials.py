"""The hand-over of secrets to a job. Invariant: they are in one file of mode 0600, its path in the environment, and nowhere else.

The only place that writes or reads that file. A later kind of identity (a kit per job) replaces what is in it and nothing
outside this module.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 64 * 1024
VARIABLE = "ZCELL_CREDENTIALS"


@dataclass(frozen=True)
class Credentials:
    """What a job must know and nobody else may: the link secret of its parent, and the token of its workspace."""

    link_secret: bytes
    transfer_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"


def credentials_text(credentials: Credentials) -> str:
    """What the hand-over file holds, for a launcher whose engine writes the file: with mode 0600 as well."""
    return json.dumps({"link_secret": credentials.link_secret.hex(), "transfer_token": credentials.transfer_token})


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write the hand-over file, new and with mode 0600. Raises `FileExistsError` when something is there already."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(credentials_text(credentials))


def read_credentials(path: Path, *, group: bool = False) -> Credentials:
    """Read the hand-over file. Raises `PermissionError` when others can read it, `ValueError` naming the field that is wrong.

    `group`: its group may read it, which is all that some engines can arrange for a user of their own.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (0o037 if group else 0o077):
            raise PermissionError(
                f"{path} has mode {mode:04o}; credentials must be readable by their owner only: chmod 600 {path}"
            )
        raw = file.read(MAX_BYTES + 1)
    try:
        content = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no credentials; expected one JSON object of at most {MAX_BYTES} bytes")
    token = content.get("transfer_token", "")
    if not isinstance(token, str):
        raise ValueError(f"{path}: transfer_token must be a string")
    try:
        secret = bytes.fromhex(content["link_secret"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: link_secret must be a string of hexadecimal digits") from None
    if len(secret) < 16:
        raise ValueError(f"{path}: link_secret has {len(secret)} bytes; at least 16 are needed")
    return Credentials(secret, token)


def credentials_from_env(env: Mapping[str, str] = os.environ) -> Credentials | None:
    """The credentials of this job, None outside a launched one. Raises as `read_credentials`."""
    path = env.get(VARIABLE)
    return read_credentials(Path(path)) if path else None


def remove_credentials(path: Path) -> None:
    """Remove the hand-over file once nobody needs it any more; it may be gone already."""
    path.unlink(missing_ok=True)
