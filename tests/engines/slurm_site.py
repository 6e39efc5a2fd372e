"""Slurm as the conformance suite sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.engines.slurm_cluster import SlurmCluster
from tests.launch.conformance import Site
from zcell.launch import JobHandle
from zcell.launch.slurm import SlurmLauncher


class SlurmSite(Site):
    """Jobs on the node of the tests' own cluster."""

    name = "slurm"
    lease = 3.0

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster

    def settings(self) -> dict[str, Any]:
        return {"poll_interval": 1.0, "lease": self.lease, "absence_deadline": 2.0}

    def make(self) -> SlurmLauncher:
        return SlurmLauncher(self.settings())

    def vanish(self, handle: JobHandle) -> None:
        # the node's daemon ends what its controller does not know
        self.cluster.kill_controller()
        self.cluster.start_controller(cold=True)

    def restart(self) -> None:
        self.cluster.stop_controller()
        self.cluster.start_controller()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.cluster.stop_controller()
        try:
            yield
        finally:
            self.cluster.start_controller()

    def left(self) -> list[str]:
        return self.cluster.left()
