"""A Docker engine of the tests' own. Invariant: it touches nothing of the machine's, and leaves nothing when it is closed.

Own containerd, socket, directories and bridge; no rule of the firewall and no forwarding is set. The daemons are nobody's children,
so that what they start is not taken for a test's.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import docker

from tests.engines.daemon import ADMIN_PATH, LIMIT, Daemon, kill_marked
from tests.engines.image import base_tarball, project_tarball
from tests.eventually import eventually

PROGRAMS = {
    "dockerd": "docker.io",
    "containerd": "docker.io",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
}
IMAGE = "zcell-test:latest"
BARE_IMAGE = "zcell-test-bare:latest"
"""The same without zcell."""
NETWORK = "zcell-test"


class DockerEngine:
    """The engine. `address` is where it listens."""

    def __init__(self, directory: Path) -> None:
        """`directory` keeps what is cached from run to run."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (directory / "docker.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._sweep()
        self._machine = machine_state()
        self._state = Path(tempfile.mkdtemp(prefix="zd-", dir="/tmp"))  # short: sockets have short paths
        self._data = directory / "docker-data"
        (directory / "docker.state").write_text(str(self._state))
        self.address = f"unix://{self._state}/docker.sock"
        self.bridge = f"zct{os.getpid() % 1000000}"
        (self._state / "bridge").write_text(self.bridge)
        self.gateway = ""
        (self._state / "config.json").write_text("{}")
        self._containerd = Daemon(self._containerd_command(), self._state / "containerd.log", str(self._state))
        self._dockerd = Daemon(self._dockerd_command(), self._state / "dockerd.log", str(self._state))
        self._client: Any = None

    def _containerd_command(self) -> list[str]:
        config = self._state / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        places = ["--root", str(self._data / "containerd"), "--state", str(self._state / "containerd")]
        return ["containerd", "--config", str(config), "--address", str(self._state / "containerd.sock"), *places]

    def _dockerd_command(self) -> list[str]:
        state = self._state
        return [
            "dockerd",
            *("--config-file", str(state / "config.json")),
            *("--host", f"unix://{state}/docker.sock"),
            *("--containerd", str(state / "containerd.sock")),
            *("--data-root", str(self._data / "docker")),
            *("--exec-root", str(state / "exec")),
            *("--pidfile", str(state / "dockerd.pid")),
            *("--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
            *("--live-restore", "--log-level", "warn"),
        ]

    @property
    def client(self) -> Any:
        """The tests' own client."""
        if self._client is None:
            self._client = docker.DockerClient(base_url=self.address, timeout=60)
        return self._client

    def start(self) -> None:
        if not self._containerd.is_alive():
            self._containerd.start()
            eventually((self._state / "containerd.sock").exists, LIMIT, self.log)
        self._dockerd.start()
        eventually(self._answers, LIMIT, self.log)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except Exception:  # noqa: BLE001  whatever it is that is not there yet
            self.forget_client()
            return False

    def log(self) -> str:
        return self._containerd.log() + self._dockerd.log()

    def stop(self) -> None:
        """An orderly end of the daemon; containers go on, as they do under ``live-restore``."""
        self.forget_client()
        self._dockerd.end()

    def kill(self) -> None:
        self.forget_client()
        self._dockerd.end(signal.SIGKILL)
        (self._state / "dockerd.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """From now on it takes connections and answers nothing."""
        self.forget_client()
        self._dockerd.send(signal.SIGSTOP)

    def resume(self) -> None:
        self._dockerd.send(signal.SIGCONT)

    def forget_client(self) -> None:
        """Close the tests' own connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # what jobs need

    def make_images(self) -> None:
        with base_tarball(self._directory).open("rb") as base:
            self.client.api.import_image_from_data(base, repository=BARE_IMAGE.partition(":")[0], tag="latest")
        container = self.client.containers.create(BARE_IMAGE, command=["python3"])
        with (self._directory / "project.tar").open("rb") as project:
            assert container.put_archive("/", project)
        container.commit(repository=IMAGE.partition(":")[0], tag="latest")
        container.remove()

    def make_network(self) -> None:
        subnet = _free_subnet()
        self.gateway = str(next(subnet.hosts()))
        pool = docker.types.IPAMPool(subnet=str(subnet), gateway=self.gateway)
        self.client.networks.create(
            NETWORK,
            driver="bridge",
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            options={"com.docker.network.bridge.name": self.bridge},
        )

    def left(self) -> list[str]:
        """Containers, volumes, and endpoints of the network."""
        found = [f"container {c.name} ({c.status})" for c in self.client.containers.list(all=True, ignore_removed=True)]
        found += [f"volume {volume.name}" for volume in self.client.volumes.list()]
        endpoints = self.client.api.inspect_network(NETWORK)["Containers"] or {}
        return found + [f"endpoint of {container['Name']}" for container in endpoints.values()]

    def close(self) -> None:
        """End it with all it has; what it cached stays. Raises `AssertionError` naming what is left."""
        try:
            if self._dockerd.is_alive():
                self.resume()
                for container in self.client.containers.list(all=True, ignore_removed=True):
                    container.remove(force=True)
                for network in self.client.networks.list(names=[NETWORK]):
                    network.remove()
                self.stop()
            self._containerd.end()
        finally:
            self.forget_client()
            _remove(self._state, self._data, self.bridge)
            (self._directory / "docker.state").unlink(missing_ok=True)
            self._lock.close()
        assert machine_state() == self._machine, "the engine has changed the machine"

    def _sweep(self) -> None:
        """Remove what a run left that was killed."""
        with contextlib.suppress(FileNotFoundError):
            state = Path((self._directory / "docker.state").read_text())
            bridge = (state / "bridge").read_text() if (state / "bridge").exists() else ""
            _remove(state, self._directory / "docker-data", bridge)


def prepare(directory: Path) -> None:
    """Make what the images are made of."""
    directory.mkdir(parents=True, exist_ok=True)
    base_tarball(directory)
    project_tarball(directory)


@contextlib.contextmanager
def docker_engine(directory: Path) -> Iterator[DockerEngine]:
    """The engine with its images and its network, for the length of the block."""
    engine = DockerEngine(directory)
    try:
        engine.start()
        engine.make_images()
        engine.make_network()
        yield engine
    finally:
        engine.close()


def _remove(state: Path, data: Path, bridge: str) -> None:
    """End every process that names `state`, undo its mounts, remove its files and its bridge."""
    kill_marked(str(state))
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split()[4]
        if place.startswith((f"{state}/", f"{data}/")):
            subprocess.run(["umount", "-l", place], check=True)
    for directory in (state, data):
        if directory.exists():
            shutil.rmtree(directory)
    if bridge and Path("/sys/class/net", bridge).exists():
        subprocess.run(["ip", "link", "delete", bridge], check=True, env={"PATH": ADMIN_PATH})


def machine_state() -> list[str]:
    """What an engine could leave behind in the machine's network: links, rules of the firewall, forwarding."""
    links = [f"link {link.name}" for link in Path("/sys/class/net").iterdir()]
    saved = subprocess.run(["iptables-save"], check=True, capture_output=True, text=True, env={"PATH": ADMIN_PATH}).stdout
    rules = [line.partition(" [")[0] for line in saved.splitlines() if line.startswith(("-A", ":"))]
    return [*sorted(links), *rules, f"forwarding {Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"]


def _free_subnet() -> ipaddress.IPv4Network:
    """One that no route of this machine leads to."""
    links = json.loads(
        subprocess.run(["ip", "-j", "-4", "route"], check=True, capture_output=True, env={"PATH": ADMIN_PATH}).stdout
    )
    taken = [ipaddress.IPv4Network(link["dst"], strict=False) for link in links if link["dst"] != "default"]
    candidates = (ipaddress.IPv4Network(f"10.{213 + n // 256}.{n % 256}.0/24") for n in range(1024))
    return next(net for net in candidates if not any(net.overlaps(other) for other in taken))
