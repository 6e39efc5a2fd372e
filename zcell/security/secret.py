"""Link secrets on disk. Invariant: a secret is only ever read from, and written to, a file that nobody else can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

SECRET_BYTES = 32


def new_secret() -> bytes:
    """A random link secret of 32 bytes."""
    return secrets.token_bytes(SECRET_BYTES)


def user_secret_path() -> Path:
    """Where this user's own secret lives: ``$ZCELL_HOME/link.secret``, by default ``~/.config/zcell/link.secret``."""
    home = os.environ.get("ZCELL_HOME")
    return (
        Path(home) if home else Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "zcell"
    ) / "link.secret"


def read_secret(path: Path) -> bytes:
    """The secret in `path`, hexadecimal text. Raises `PermissionError` when others can read it, `ValueError` when it is none."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise PermissionError(f"{path} has mode {mode:04o}; a secret must be readable by its owner only: chmod 600 {path}")
        text = file.read(4096)
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        raise ValueError(f"{path} does not hold a link secret; expected one line of hexadecimal digits") from None
    if len(secret) < 16:
        raise ValueError(f"{path} holds a link secret of {len(secret)} bytes; at least 16 are needed")
    return secret


def write_secret(path: Path, secret: bytes) -> None:
    """Write `secret` to a new file of mode 0600. Raises `FileExistsError` when there is one already."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(secret.hex() + "\n")


def user_secret() -> bytes:
    """This user's secret, made at the first use: what keeps other users of this machine out when no secret was given."""
    path = user_secret_path()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        write_secret(fresh, new_secret())
        try:
            with contextlib.suppress(FileExistsError):  # another process made it in the meantime: that one counts
                os.link(fresh, path)
        finally:
            fresh.unlink()
    return read_secret(path)
