"""The stand-in does what a cluster does where launchers depend on it: see `tests.launch.kubernetes.standin`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch.kubernetes.kubelet import Kubelet
from tests.launch.kubernetes.store import Object, Store


class BusyStore(Store):
    """One in which somebody makes a Job and its Secret right after the `after`th look at it."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def find(self, kind: str, selector: str = "") -> list[Object]:
        found = super().find(kind, selector)
        self._after -= 1
        if self._after == 0:
            make_job(self)
        return found


def make_job(store: Store) -> None:
    container = {"name": "job", "image": "zcell:test"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mine"}}
    made = store.create("jobs", job | {"spec": {"suspend": True, "template": {"spec": pod}}})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "mine", "uid": made["metadata"]["uid"]}
    metadata = {"name": "mine-secret", "ownerReferences": [owner]}
    store.create("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {}})


@pytest.fixture(params=range(1, 4))
def busy(request: pytest.FixtureRequest) -> Iterator[BusyStore]:
    store = BusyStore(request.param)
    yield store
    assert store.find("jobs"), "a Job was made while the collector looked"


def test_the_secret_of_a_job_that_is_made_while_the_collector_looks_stays(busy: BusyStore) -> None:
    Kubelet(busy).collect()
    assert [secret["metadata"]["name"] for secret in busy.find("secrets")] == ["mine-secret"]


def test_the_secret_of_a_job_that_is_gone_goes_too() -> None:
    store = Store()
    make_job(store)
    store.remove("jobs", "mine")
    Kubelet(store).collect()
    assert store.find("secrets") == []
