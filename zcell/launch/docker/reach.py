"""How a container reaches the parent. Invariant: an address is one where the parent listens, or what the operator says it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from zcell.cell.endpoints import is_local
from zcell.errors import LaunchError

HOST_NETWORK = "host"
EVERYWHERE = "0.0.0.0"  # noqa: S104  bound only where the user has said so
_ANY = (EVERYWHERE, "[::]", "*")


def gateway(network: Mapping[str, Any]) -> str:
    """The engine's host as containers of this network see it; empty when that is not told."""
    for config in (network.get("IPAM") or {}).get("Config") or []:
        try:
            if config.get("Gateway"):
                return str(ipaddress.IPv4Address(str(config["Gateway"]).partition("/")[0]))
            # an engine gives the gateway the first address of a subnet that it was told
            return str(next(ipaddress.IPv4Network(str(config.get("Subnet"))).hosts()))
        except (ValueError, StopIteration):  # an address of the other family
            continue
    return ""


def members(network: Mapping[str, Any]) -> set[str]:
    """Names of the containers on this network."""
    return {str(container.get("Name", "")) for container in (network.get("Containers") or {}).values()}


def parent_host(network: Mapping[str, Any], names: Sequence[str]) -> str:
    """The host that containers of `network` call: the first of `names` (the site's) that is a container there, which its
    name resolves to; else the engine's host, at the network's gateway; else the site's name all the same."""
    if network.get("Name") == HOST_NETWORK:
        return "127.0.0.1"
    present = members(network)
    for name in names:
        if name in present:
            return name
    is_bridge = network.get("Driver") == "bridge"
    return (gateway(network) if is_bridge else "") or names[0]


def listening_host(network: Mapping[str, Any]) -> str:
    """Where a parent on the engine's host listens for containers of `network`, and for as few others as can be."""
    if network.get("Name") == HOST_NETWORK:
        return "127.0.0.1"
    return (gateway(network) if network.get("Driver") == "bridge" else "") or EVERYWHERE


def parent_url(endpoints: Sequence[str], host: str) -> str:
    """The address of the parent at `host`: the port of the endpoint that is reached there.

    Raises `LaunchError` when the parent listens nowhere that can be reached at `host`.
    """
    for url in endpoints:
        if not url.startswith("tcp://"):
            continue
        bound, _, port = url[6:].rpartition(":")
        by_name = not _is_address(host) and not is_local(url)
        if bound in _ANY or bound == host or by_name or (is_local(f"tcp://{host}:0") and is_local(url)):
            return f"tcp://{host}:{port}"
    listening = ", ".join(endpoints) or "nowhere"
    raise LaunchError(
        f"a container would call the parent at {host}, and the parent listens on {listening}; start it with "
        f"listen=['tcp://{host if _is_address(host) else EVERYWHERE}:0'], insecure=True (this version has no kits for addresses that "
        "others may reach; the link secret is still proved by both sides), or name another way in the docker launcher's setting "
        "parent_url or parent_host"
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
