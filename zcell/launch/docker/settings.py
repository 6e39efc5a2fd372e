"""What a site and a job may say about containers. Invariant: what isolates a job from its host is the launcher's alone.

A site's settings come from its operator; a job's come with the job, from whoever wrote it. So a reserved name is a mistake in a
site's settings, and ignored with a warning in a job; what else a job may set is the site's choice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zcell.errors import LaunchError
from zcell.launch.docker.resources import limits
from zcell.launch.spec import JobSpec

log = logging.getLogger("zcell.launch.docker")

DEFAULT_PYTHON = "python3"
DEFAULT_NETWORK = "bridge"
DEFAULT_TIMEOUT = 30.0
JOB_MAY_SET = ("image", "python_path", "shm_size", "ipc_mode", "num_of_gpus", "device_requests")
SHARED, TRANSFER = "shared", "transfer"

SITE_SETTINGS = {
    "image": "image of jobs that name none",
    "python": f"the interpreter in the image that has zcell, for jobs that name none (default {DEFAULT_PYTHON})",
    "network": f"the engine's network that containers join (default {DEFAULT_NETWORK})",
    "parent_host": "host under which containers reach the parent (default: the site's container, else the network's gateway)",
    "workspace": f"{SHARED!r} (default): bind the workspace's directories; {TRANSFER!r}: ship them over the cell",
    "env": "variables for every job",
    "container": "keyword arguments of the Docker SDK's containers.create for every job",
    "job_may_set": "what a job's own settings may hold",
    "num_of_gpus": "GPUs of jobs that ask for none",
    "device_requests": "the same in the engine's words",
    "timeout": f"seconds that a container may take to run (default {DEFAULT_TIMEOUT:g})",
    "pull": "'missing' (default): pull an image that the engine lacks; 'never'",
    "engine": "the engine's address, such as unix:///run/docker.sock (default: DOCKER_HOST, then the usual socket)",
}

_OWN = ("image", "python_path", "num_of_gpus", "device_requests")
"""Names of a job's settings that are no keyword arguments."""

RESERVED = frozenset(
    {
        "auto_remove",
        "cap_add",
        "cgroup_parent",
        "cgroupns",
        "command",
        "detach",
        "device_cgroup_rules",
        "entrypoint",
        "environment",
        "healthcheck",
        "labels",
        "links",
        "lxc_conf",
        "mac_address",
        "mounts",
        "name",
        "network",
        "network_disabled",
        "network_mode",
        "networking_config",
        "pid_mode",
        "ports",
        "privileged",
        "publish_all_ports",
        "read_only",
        "remove",
        "restart_policy",
        "security_opt",
        "stderr",
        "stdin_open",
        "stdout",
        "stop_signal",
        "stream",
        "sysctls",
        "tmpfs",
        "tty",
        "use_config_proxy",
        "user",
        "userns_mode",
        "uts_mode",
        "version",
        "volume_driver",
        "volumes",
        "volumes_from",
        "working_dir",
    }
)
"""Keyword arguments that the launcher sets itself, or that would let a job out of its container."""


@dataclass(frozen=True)
class SiteSettings:
    """A site's settings, checked."""

    image: str = ""
    python: str = DEFAULT_PYTHON
    network: str = DEFAULT_NETWORK
    parent_host: str = ""
    workspace: str = SHARED
    env: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)
    job_may_set: tuple[str, ...] = JOB_MAY_SET
    gpus: Mapping[str, Any] = field(default_factory=dict)
    """``num_of_gpus`` and ``device_requests``, where given."""
    timeout: float = DEFAULT_TIMEOUT
    pull: str = "missing"
    engine: str = ""

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> SiteSettings:
        """Raises `LaunchError` naming the setting that is wrong and what was expected. Other names are left alone."""
        texts = {name: _text(settings, name) for name in ("image", "network", "parent_host", "engine") if name in settings}
        if "python" in settings:
            texts["python"] = _python_path(settings["python"], "the docker launcher's setting python")
        for name, choices in (("workspace", (SHARED, TRANSFER)), ("pull", ("missing", "never"))):
            if name in settings:
                if settings[name] not in choices:
                    raise LaunchError(f"the docker launcher's setting {name} is one of {choices}, got {settings[name]!r}")
                texts[name] = settings[name]
        return cls(
            **texts,
            env=_env(settings.get("env", {})),
            container=_container(settings.get("container", {})),
            job_may_set=_allowed(settings.get("job_may_set", JOB_MAY_SET)),
            gpus={name: settings[name] for name in ("num_of_gpus", "device_requests") if name in settings},
            timeout=_seconds(settings, "timeout", DEFAULT_TIMEOUT),
        )


@dataclass(frozen=True)
class JobSettings:
    """What a job may decide of its container."""

    image: str
    python: str
    container: Mapping[str, Any]
    """Keyword arguments: the site's, over them the job's, and the limits that follow from its resources."""
    gpus: Mapping[str, Any]
    """The job's ``num_of_gpus`` and ``device_requests``, where given; its settings count before its resources."""

    @classmethod
    def merge(cls, spec: JobSpec, job: Mapping[str, Any], place: str, site: SiteSettings) -> JobSettings:
        """The job's settings, found at `place`, over the site's. Raises `LaunchError` naming the setting that is wrong."""
        where = f"job {spec.job_id}: {place}"
        chosen: dict[str, Any] = {}
        for name, value in job.items():
            if name in RESERVED:
                log.warning("%s sets %s, which is the launcher's: ignored", where, name)
            elif name not in site.job_may_set:
                raise LaunchError(
                    f"{where} sets {name!r}, which a job may not at this site; it may set {', '.join(site.job_may_set)}. "
                    "The site's operator can add to that in the docker launcher's setting job_may_set"
                )
            else:
                chosen[name] = value
        python = chosen.get("python_path")
        if python is not None:
            python = _python_path(python, f"{where}: python_path")
        container = dict(site.container) | {name: value for name, value in chosen.items() if name not in _OWN}
        asked = limits(spec, container, site.job_may_set)
        return cls(
            image=_image(spec, chosen, site),
            python=python or site.python,
            container={**container, **asked.container},
            gpus=dict(asked.gpus) | {name: chosen[name] for name in ("num_of_gpus", "device_requests") if name in chosen},
        )


def _image(spec: JobSpec, chosen: Mapping[str, Any], site: SiteSettings) -> str:
    image = chosen.get("image") or site.image
    if not image:
        raise LaunchError(
            f"job {spec.job_id} names no image. Set it in one of three places: launcher_spec[{spec.site!r}]['docker']['image'] or "
            "launcher_spec['default']['docker']['image'] of the job, or the site's docker launcher setting image "
            "(zcell run: --image)"
        )
    if not isinstance(image, str):
        raise LaunchError(f"job {spec.job_id}: an image is named by a string such as 'registry/name:tag', got {image!r}")
    return image


def _text(settings: Mapping[str, Any], name: str) -> str:
    value = settings[name]
    if not isinstance(value, str):
        raise LaunchError(f"the docker launcher's setting {name} ({SITE_SETTINGS[name]}) must be a string, got {value!r}")
    return value or (DEFAULT_NETWORK if name == "network" else "")


def _python_path(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise LaunchError(f"{place} must be the path of an interpreter in the image, got {value!r}")
    return value


def _env(value: Any) -> dict[str, str]:
    good = isinstance(value, Mapping) and all(isinstance(k, str) and k and isinstance(v, str) for k, v in value.items())
    if not good or any("=" in name or "\0" in name + text for name, text in value.items()):
        raise LaunchError(f"the docker launcher's setting env must map names of variables to strings, got {value!r}")
    return dict(value)


def _container(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise LaunchError(f"the docker launcher's setting container must map names of arguments to values, got {value!r}")
    for name in value:
        if name in RESERVED:
            raise LaunchError(f"the docker launcher's setting container sets {name!r}, which is the launcher's; remove it")
        if name in (*_OWN, "image"):
            raise LaunchError(f"the docker launcher's setting container sets {name!r}; that is a setting of its own, beside it")
    return dict(value)


def _allowed(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise LaunchError(f"the docker launcher's setting job_may_set must be a list of names, got {value!r}")
    for name in value:
        if name in RESERVED:
            raise LaunchError(f"the docker launcher's setting job_may_set lists {name!r}, which no job may set; remove it")
    return tuple(value)


def _seconds(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise LaunchError(f"the docker launcher's setting {name} must be a number of seconds above 0, got {value!r}")
    return float(value)
