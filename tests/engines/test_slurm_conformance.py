"""The Slurm launcher does what every launcher does, on a real cluster."""

from __future__ import annotations

import pytest

from tests.engines.slurm_cluster import SlurmCluster
from tests.engines.slurm_site import SlurmSite
from tests.launch.conformance import LauncherConformance


class TestSlurm(LauncherConformance):
    @pytest.fixture
    def site(self, cluster: SlurmCluster) -> SlurmSite:
        return SlurmSite(cluster)
