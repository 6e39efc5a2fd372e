"""A stand-in for a cluster, and a launcher of its jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.eventually import eventually
from tests.launch.kubernetes.standin import StandIn, stand_in
from zcell.launch.kubernetes import KubernetesLauncher


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def make(cluster: StandIn) -> Iterator[Callable[..., KubernetesLauncher]]:
    """Makes launchers; afterwards they are closed, and the cluster has nothing left."""
    launchers: list[KubernetesLauncher] = []

    def make_launcher(**settings: Any) -> KubernetesLauncher:
        usual = {"kubeconfig": cluster.kubeconfig, "image": "zcell:test", "python": sys.executable, "lease": 3.0}
        launchers.append(KubernetesLauncher(usual | settings))
        return launchers[-1]

    yield make_launcher
    for launcher in launchers:
        launcher.close()
    eventually(lambda: not cluster.left(), 20, cluster.left)
