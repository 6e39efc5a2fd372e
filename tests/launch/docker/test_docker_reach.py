"""How a container reaches the parent."""

from __future__ import annotations

from typing import Any

import pytest

from zcell.errors import LaunchError
from zcell.launch.docker.reach import gateway, listening_host, parent_host, parent_url


def network(*containers: str, driver: str = "bridge", name: str = "net", **ipam: str) -> dict[str, Any]:
    members = {str(number): {"Name": container} for number, container in enumerate(containers)}
    return {"Name": name, "Driver": driver, "IPAM": {"Config": [ipam] if ipam else []}, "Containers": members}


def test_the_gateway_is_what_the_engine_says_or_the_first_address_of_the_subnet() -> None:
    assert gateway(network(Subnet="172.20.0.0/16", Gateway="172.20.0.254")) == "172.20.0.254"
    assert gateway(network(Subnet="172.20.0.0/16")) == "172.20.0.1"
    assert gateway(network()) == ""
    assert gateway({"IPAM": None}) == ""
    both = network(Subnet="fd00::/64", Gateway="fd00::1")
    both["IPAM"]["Config"].append({"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"})
    assert gateway(both) == "10.9.0.1"


def test_a_parent_in_a_container_of_its_sites_name_is_reached_by_that_name() -> None:
    net = network("site-1", "other", Subnet="10.9.0.0/24", Gateway="10.9.0.1")
    assert parent_host(net, ["site-1"]) == "site-1"
    assert parent_host(net, ["Site_1", "site-1"]) == "site-1"
    assert parent_url(["tcp://0.0.0.0:8002"], "site-1") == "tcp://site-1:8002"


def test_a_parent_on_the_engines_host_is_reached_at_the_gateway() -> None:
    net = network("other", Subnet="10.9.0.0/24", Gateway="10.9.0.1")
    assert parent_host(net, ["site-1"]) == "10.9.0.1"
    assert listening_host(net) == "10.9.0.1"
    for bound in ("10.9.0.1", "0.0.0.0", "[::]"):
        assert parent_url([f"tcp://{bound}:8002"], "10.9.0.1") == "tcp://10.9.0.1:8002"


def test_on_a_network_without_a_gateway_the_sites_name_has_to_do() -> None:
    net = network(driver="overlay", Subnet="10.0.1.0/24", Gateway="10.0.1.1")
    assert parent_host(net, ["site-1"]) == "site-1"
    assert listening_host(net) == "0.0.0.0"


def test_on_the_hosts_own_network_the_loopback_is_shared() -> None:
    net = network(driver="host", name="host")
    assert parent_host(net, ["site-1"]) == "127.0.0.1"
    assert listening_host(net) == "127.0.0.1"
    assert parent_url(["ipc:///x", "tcp://127.0.0.1:5"], "127.0.0.1") == "tcp://127.0.0.1:5"


@pytest.mark.parametrize("endpoints", [[], ["ipc:///run/x"], ["tcp://127.0.0.1:5000"], ["tcp://10.9.9.9:5000"]])
def test_a_parent_that_cannot_be_reached_is_told_how_to_listen(endpoints: list[str]) -> None:
    with pytest.raises(LaunchError) as caught:
        parent_url(endpoints, "10.9.0.1")
    text = str(caught.value)
    assert f"the parent listens on {', '.join(endpoints) or 'nowhere'}" in text
    assert "listen=['tcp://10.9.0.1:0'], insecure=True" in text
    assert "parent_host" in text


def test_a_loopback_endpoint_is_not_taken_for_one_that_a_name_leads_to() -> None:
    with pytest.raises(LaunchError, match=r"listen=\['tcp://0\.0\.0\.0:0'\]"):
        parent_url(["tcp://127.0.0.1:5000"], "site-1")
    assert parent_url(["tcp://127.0.0.1:5000", "tcp://10.9.9.9:6000"], "site-1") == "tcp://site-1:6000"
