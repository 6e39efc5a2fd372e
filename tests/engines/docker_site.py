"""Docker as the conformance suite and the tests of its own rules see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.engines.dockerd import IMAGE, NETWORK, DockerEngine
from tests.launch.conformance import Site
from zcell.launch import JobHandle
from zcell.launch.docker import DockerLauncher
from zcell.launch.remote import RemoteHandle


class DockerSite(Site):
    """Jobs in containers of the tests' own engine, their files shipped."""

    name = "docker"
    lease = 3.0

    def __init__(self, engine: DockerEngine, **settings: Any) -> None:
        self.engine = engine
        self.listen = f"tcp://{engine.gateway}:0"
        self._settings = settings

    def settings(self) -> dict[str, Any]:
        usual = {
            "engine": self.engine.address,
            "image": IMAGE,
            "network": NETWORK,
            "workspace": "transfer",
            "lease": self.lease,
        }
        return usual | self._settings

    def make(self) -> DockerLauncher:
        return DockerLauncher(self.settings())

    def vanish(self, handle: JobHandle) -> None:
        assert isinstance(handle, RemoteHandle)
        self.engine.client.api.remove_container(handle.engine_id, force=True)

    def restart(self) -> None:
        self.engine.restart()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.engine.stop()
        try:
            yield
        finally:
            self.engine.start()

    def left(self) -> list[str]:
        return self.engine.left()
