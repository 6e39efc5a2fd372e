"""Whether a Docker engine will take jobs, as far as asking tells. Invariant: nothing is made, and what is missing has its cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zcell.errors import LaunchError
from zcell.launch.checkup import Check
from zcell.launch.docker.engine import DockerEngine
from zcell.launch.docker.settings import SiteSettings
from zcell.launch.remote.engine import EngineError

PAGE = "docs/howto-docker.md"
_REACH = (
    "start it, or say where it is with DOCKER_HOST or --set engine=unix:///PATH; this user must be allowed to open its socket"
)


def examine(engine: DockerEngine, site: SiteSettings, network: Callable[[], Mapping[str, Any]]) -> Iterator[Check]:
    """The checks, in the order in which their failures explain each other. `network` is what raises for one that is not there."""
    try:
        yield Check("engine", f"Docker {engine.version()} at {engine.socket or site.engine or 'DOCKER_HOST'}")
        try:
            yield Check("network", f"{site.network}, {network().get('Driver')}")
        except LaunchError as error:
            yield Check("network", str(error), "usage", f"see {PAGE}, Networks")
        yield _image(engine, site)
    except EngineError as error:
        yield Check("engine", str(error), "link", _REACH)


def _image(engine: DockerEngine, site: SiteSettings) -> Check:
    if not site.image:
        return Check("image", "none is named", "usage", "name one that has python with zcell: --image IMAGE")
    if engine.has_image(site.image):
        return Check("image", site.image)
    if site.pull == "never":
        return Check("image", f"the engine does not have {site.image!r}", "usage", f"docker pull {site.image}")
    return Check("image", f"{site.image}, which the engine does not have yet", advice="it is pulled by the first job")
