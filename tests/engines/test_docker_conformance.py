"""The Docker launcher does what every launcher does, on a real engine."""

from __future__ import annotations

import pytest

from tests.engines.docker_site import DockerSite
from tests.engines.dockerd import DockerEngine
from tests.launch.conformance import LauncherConformance


class TestDocker(LauncherConformance):
    @pytest.fixture
    def site(self, dockerd: DockerEngine) -> DockerSite:
        return DockerSite(dockerd)
