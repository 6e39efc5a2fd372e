"""The request for one container. Invariant: it holds names, addresses and paths, never a secret; the launcher's own part wins."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zcell.launch.docker.names import container_name
from zcell.launch.docker.settings import JobSettings, SiteSettings
from zcell.launch.docker.view import CREDENTIALS, HOME, PRIVATE, WORKSPACE
from zcell.launch.spec import JobSpec

NODE_MODULE = "zcell.launch.remote.node"
LABEL = "zcell.launcher"
OWNER_LABEL, JOB_LABEL, SITE_LABEL = "zcell.owner", "zcell.job", "zcell.site"


@dataclass(frozen=True)
class Identity:
    """Under whom a container runs: as the user who launches, so that files in shared directories are that user's."""

    uid: int
    gid: int
    name: str

    @classmethod
    def of_this_process(cls) -> Identity:
        uid, gid = os.getuid(), os.getgid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:  # an arbitrary uid, as some clusters give out
            name = str(uid)
        return cls(uid, gid, name)


def container_request(
    spec: JobSpec,
    site: SiteSettings,
    job: JobSettings,
    *,
    arguments: Sequence[str],
    identity: Identity,
    owner: str,
    mounts: Sequence[Mapping[str, Any]],
    devices: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Keyword arguments of the Docker SDK's ``containers.create``."""
    request: dict[str, Any] = dict(job.container)
    if devices:
        request["device_requests"] = [dict(device) for device in devices]
    request |= {
        "image": job.image,
        "name": container_name(spec.site, spec.job_id),
        "entrypoint": [],  # an image's own would be given our command as its arguments
        "command": [job.python, "-u", "-P", "-m", NODE_MODULE, *arguments],
        "environment": dict(site.env) | {"HOME": HOME, "USER": identity.name, "LOGNAME": identity.name},
        "user": f"{identity.uid}:{identity.gid}",
        "working_dir": f"{WORKSPACE}/{spec.job_id}",
        "network": site.network,
        "mounts": [dict(mount) for mount in mounts],
        "labels": {LABEL: "docker", OWNER_LABEL: owner, JOB_LABEL: spec.job_id, SITE_LABEL: spec.site},
        "security_opt": ["no-new-privileges:true"],
        "detach": True,
    }
    return request


def node_arguments(url: str, node: str, *, insecure: bool) -> list[str]:
    """Arguments of the job's node: where its parent is, what it is called, where its credentials and its workspace are."""
    arguments = ["--parent", url, "--name", node, "--credentials", CREDENTIALS, "--consume", "--wait", "0"]
    arguments += ["--directory", PRIVATE, "--echo"]
    return [*arguments, "--insecure"] if insecure else arguments
