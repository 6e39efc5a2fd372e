"""A job's resources as limits of its container. Invariant: a job gets what it asks for, within its site's limits, or an error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zcell.errors import LaunchError
from zcell.launch.spec import JobSpec

RESOURCES = {
    "cpus": "number above 0: CPUs that the container may use",
    "memory": "bytes, or a text such as 4G: most memory of the container",
    "gpus": 'whole number from 0, or "all": the same as num_of_gpus in the job\'s settings',
    "num_of_gpus": "the same as gpus",
}
_MEMORY = re.compile(r"(\d+)([kmgt]?)b?\Z", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_NANO = 10**9


@dataclass(frozen=True)
class Limits:
    """What a job asks for, in the words of the Docker SDK."""

    container: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments: ``nano_cpus`` and ``mem_limit``, where asked for."""
    gpus: Mapping[str, Any] = field(default_factory=dict)
    """``num_of_gpus``, where asked for."""


def limits(spec: JobSpec, container: Mapping[str, Any], job_may_set: tuple[str, ...]) -> Limits:
    """What `spec` asks for in `resources`, over its site's plain `resource_spec`.

    `container` holds the keyword arguments that the site and the job's settings have set already: no resource may be more than
    those. Raises `LaunchError` naming the resource and what was expected.
    """
    site = {name: value for name, value in spec.resource_spec.get(spec.site, {}).items() if not isinstance(value, Mapping)}
    asked = {**site, **spec.resources}
    who = f"job {spec.job_id}"
    for name in asked:
        if name not in RESOURCES:
            raise LaunchError(f"{who}: the docker launcher has no resource {name!r}; it has {', '.join(RESOURCES)}")
    found: dict[str, Any] = {}
    if "cpus" in asked:
        found["nano_cpus"] = _at_most(container.get("nano_cpus"), round(_cpus(who, asked["cpus"]) * _NANO), f"{who}: cpus")
    if "memory" in asked:
        allowed = container.get("mem_limit")
        limit = None if allowed is None else _memory(f"the docker launcher's setting container: mem_limit for {who}", allowed)
        found["mem_limit"] = _at_most(limit, _memory(f"{who}: the resource memory", asked["memory"]), f"{who}: memory")
    wanted = asked.get("num_of_gpus", asked.get("gpus"))
    gpus = {} if wanted is None else {"num_of_gpus": wanted}
    if gpus and "num_of_gpus" not in job_may_set:
        raise LaunchError(
            f"{who}: its resources ask for GPUs, which a job may not at this site; the site's operator can add num_of_gpus to the "
            "docker launcher's setting job_may_set"
        )
    return Limits(found, gpus)


def _cpus(who: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise LaunchError(f"{who}: the resource cpus must be a {RESOURCES['cpus']}, got {value!r}")
    return float(value)


def _memory(where: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _MEMORY.match(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise LaunchError(f"{where} must be {RESOURCES['memory']}, got {value!r}")
    return int(match[1]) << _UNITS[match[2].lower()]


def _at_most(allowed: Any, asked: int, what: str) -> int:
    if isinstance(allowed, int) and 0 < allowed < asked:
        raise LaunchError(
            f"{what} asks for {asked}, and the docker launcher's setting container gives {allowed} at most; ask for less, or have "
            "the site's operator raise it"
        )
    return asked
