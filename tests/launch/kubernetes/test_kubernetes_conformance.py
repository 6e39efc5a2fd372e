"""The Kubernetes launcher does what every launcher does. Its cluster is a stand-in: see `tests.launch.kubernetes.standin`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.launch.conformance import LauncherConformance, Site
from tests.launch.kubernetes.standin import StandIn
from zcell.launch import JobHandle
from zcell.launch.kubernetes import KubernetesLauncher
from zcell.launch.remote import RemoteHandle


class KubernetesSite(Site):
    """Jobs in pods of the stand-in."""

    name = "kubernetes"
    lease = 3.0

    def __init__(self, cluster: StandIn) -> None:
        self.cluster = cluster

    def settings(self) -> dict[str, Any]:
        usual = {"kubeconfig": self.cluster.kubeconfig, "image": "zcell:test", "python": sys.executable}
        return usual | {"lease": self.lease, "absence_deadline": 1.0}

    def make(self) -> KubernetesLauncher:
        return KubernetesLauncher(self.settings())

    def vanish(self, handle: JobHandle) -> None:
        assert isinstance(handle, RemoteHandle)
        for pod in self.cluster.store.find("pods"):
            self.cluster.kubelet.delete_pod(pod["metadata"]["name"], 0)
        self.cluster.store.remove("jobs", handle.engine_id)

    def restart(self) -> None:
        self.cluster.stop()
        self.cluster.start()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.cluster.stop()
        try:
            yield
        finally:
            self.cluster.start()

    def left(self) -> list[str]:
        return self.cluster.left()


class TestKubernetes(LauncherConformance):
    @pytest.fixture
    def site(self, cluster: StandIn) -> KubernetesSite:
        return KubernetesSite(cluster)
