"""What is put into a container before it starts. Invariant: secrets reach it as one file of mode 0600 of the job's user.

The engine unpacks it inside the container, so no path of the host is involved, and nothing of it is in the container's description.
"""

from __future__ import annotations

import io
import tarfile
import time

from zcell.launch.docker.request import Identity
from zcell.launch.docker.view import CREDENTIALS, HOME, PRIVATE, TMPFS_MODE, WORKSPACE
from zcell.security.credentials import Credentials, credentials_text


def private_archive(identity: Identity, credentials: Credentials, job_id: str, *, shared: bool) -> bytes:
    """A tar to be unpacked at ``/``: the job's private directories, empty, and its credentials.

    Of a `shared` workspace only the mount point is in it, with the mode that its tmpfs takes over (runc does so); what is below
    are the host's own directories, which the engine has mounted already and must not change.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "/zcell", 0o755, Identity(0, 0, "root"))
        for directory in (PRIVATE, HOME):
            _add(archive, directory, 0o700, identity)
        _add(archive, WORKSPACE, TMPFS_MODE if shared else 0o700, identity)
        if not shared:
            _add(archive, f"{WORKSPACE}/{job_id}", 0o700, identity)
        _add(archive, CREDENTIALS, 0o600, identity, credentials_text(credentials).encode())
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, mode: int, identity: Identity, content: bytes | None = None) -> None:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.mode, member.uid, member.gid, member.mtime = mode, identity.uid, identity.gid, int(time.time())
    if content is None:
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    else:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
