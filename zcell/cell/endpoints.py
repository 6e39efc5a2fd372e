"""Endpoint addresses. Invariant: an address that other machines can reach is never opened without a kit unless the user insists."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

_MAX_IPC_PATH = 107  # sockaddr_un.sun_path less its final NUL


def check_endpoint(url: str, argument: str) -> str:
    """`url` when it is a ``tcp://HOST:PORT``, ``ipc://PATH`` or ``inproc://NAME`` address; else `ValueError` naming `argument`."""
    if not isinstance(url, str):
        raise TypeError(f"{argument}: an endpoint is a str, not {type(url).__name__}")
    scheme, _, rest = url.partition("://")
    if scheme not in ("tcp", "ipc", "inproc") or not rest:
        raise ValueError(f"{argument}: {url!r} is not an endpoint; expected tcp://HOST:PORT, ipc://PATH or inproc://NAME")
    if scheme == "ipc" and len(os.fsencode(rest)) > _MAX_IPC_PATH:
        raise ValueError(f"{argument}: the path of {url!r} is too long; the system allows {_MAX_IPC_PATH} bytes")
    if scheme == "tcp":
        _check_tcp(url, argument)
    return url


def _check_tcp(url: str, argument: str) -> None:
    try:
        parts = urlsplit(url)
        port = url.rpartition(":")[2]
        good = bool(parts.hostname) and (port == "*" or 0 <= int(port) <= 65535)
    except ValueError:
        good = url.startswith("tcp://*:") and url[8:].isdigit()
    if not good:
        raise ValueError(f"{argument}: {url!r} needs a host and a port from 0 to 65535, such as tcp://127.0.0.1:0")


def is_local(url: str) -> bool:
    """Whether only this machine can reach `url`: ipc, inproc, or a loopback address."""
    if not url.startswith("tcp://"):
        return True
    host = url[6:].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_local(url: str, argument: str, insecure: bool) -> None:
    """Raise `ValueError` for an address beyond this machine unless `insecure` was asked for."""
    if not is_local(url) and not insecure:
        raise ValueError(
            f"{argument}: {url!r} can be reached from other machines, where this cell has no kit to prove identities with; "
            "use a loopback or ipc:// address, or pass insecure=True to accept that anyone on the way can read and alter traffic"
        )


def prepare_ipc(url: str) -> None:
    """Make the directory of an ``ipc://`` address, for this user only; a shared one must not let others in.

    Raises `OSError` when something else is there: binding would remove a file, and take the place of a cell that listens.
    """
    if not url.startswith("ipc://"):
        return
    path = Path(url[6:])
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise PermissionError(
            f"{folder} has mode {mode:04o}: others could replace the socket of {url}; use a directory of mode 0700"
        )
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, f"cannot listen on {url}: there is something that is no socket")
    if path.is_socket() and _answers(path):
        raise OSError(errno.EADDRINUSE, f"cannot listen on {url}: somebody listens there already")


def _answers(path: Path) -> bool:
    """Whether a process listens on the unix socket `path`; a socket left by one that died refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fspath(path)) in (0, errno.EAGAIN)


def remove_ipc(url: str) -> None:
    """Remove what an ``ipc://`` address left in the file system."""
    if url.startswith("ipc://"):
        Path(url[6:]).unlink(missing_ok=True)
