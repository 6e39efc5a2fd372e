"""The Docker engine as a launcher sees it. Invariant: every call ends in time, and one that fails is an `EngineError`, never a guess."""

from __future__ import annotations

import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from zcell.launch.docker.request import JOB_LABEL, LABEL, OWNER_LABEL
from zcell.launch.ending import how_it_ended
from zcell.launch.remote import Engine, EngineError, EngineState, EngineView, Outcome, RemoteHandle
from zcell.launch.remote.refusal import REASONS, Refusal
from zcell.launch.spec import JobReturnCode

log = logging.getLogger("zcell.launch.docker")

CALL_TIMEOUT = 60.0
"""Seconds for what may take long, pulling aside: the making and starting of a container."""
PATIENT_TIMEOUT = 10.0
"""Seconds for a question before a job is started."""
QUICK_TIMEOUT = 0.8
"""Seconds for questions and signals, which are asked again when the engine takes longer."""
REMOVE_TIMEOUT = 3.0
"""Seconds for a removal, which is tried again."""
KEPT_LINES = 1000
KEPT = "zcell-kept-"
"""What the names of containers begin with that have results in them which could not be brought back."""
_REACHED = "be reached"
_ENDED = ("exited", "dead", "removing")


class NoSuchContainerError(EngineError):
    """The engine does not have the container (any more)."""


class DockerEngine(Engine):
    """One engine, on this machine or elsewhere; `owner` marks the containers that are this launcher's."""

    fastest = 0.1
    slowest = 2.0

    def __init__(self, address: str, owner: str) -> None:
        self._address = address
        self._owner = owner
        self._lock = threading.Lock()
        self._clients: dict[float, Any] = {}
        self._answers = True
        self._kept: set[str] = set()
        self.remove_later: Callable[[str], None] = self.remove
        """What becomes of a container that cannot be removed now."""

    # the engine itself

    @property
    def socket(self) -> Path | None:
        """The socket of an engine on this machine; None when it is, or may be, elsewhere."""
        address = self._address or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        scheme, _, path = address.partition("://")
        return Path("/" + path.lstrip("/")).resolve() if scheme in ("unix", "http+unix") else None

    def client(self, timeout: float = CALL_TIMEOUT) -> Any:
        """The Docker SDK's client. Raises `EngineError` when there is no engine."""
        self._knock()
        with self._lock:
            if timeout not in self._clients:
                with self._errors(_REACHED):
                    self._clients[timeout] = (
                        docker.DockerClient(base_url=self._address, timeout=timeout)
                        if self._address
                        else docker.from_env(timeout=timeout)
                    )
            return self._clients[timeout]

    def _knock(self) -> None:
        """Say at once, and in few words, that nobody listens."""
        path = self.socket
        if path is None:
            return
        with self._errors(f"{_REACHED} at {path}"), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(QUICK_TIMEOUT)
            probe.connect(str(path))

    def close(self) -> None:
        """Let connections go; the next call makes new ones."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except NotFound as error:
            raise NoSuchContainerError(f"the Docker engine cannot {doing}: {explain(error)}") from error
        except (DockerException, requests.RequestException, OSError) as error:
            _close_sockets(error)
            failed = EngineError(f"the Docker engine cannot {doing}: {explain(error)}")
            silent = isinstance(error, requests.RequestException | OSError) or doing.startswith(_REACHED)
            failed.unreachable = silent and not isinstance(error, APIError)
            raise failed from error

    def version(self) -> str:
        with self._errors("say what it is"):
            return str(self.client(PATIENT_TIMEOUT).version()["Version"])

    # networks and images

    def network(self, name: str) -> dict[str, Any] | None:
        """What the engine says of a network, None when there is none of that name."""
        with self._errors(f"say whether there is a network {name!r}"):
            try:
                return dict(self.client(PATIENT_TIMEOUT).api.inspect_network(name))
            except NotFound:
                return None

    def has_image(self, image: str) -> bool:
        with self._errors(f"say whether it has the image {image!r}"):
            try:
                self.client(PATIENT_TIMEOUT).api.inspect_image(image)
            except ImageNotFound:
                return False
        return True

    def pull(self, image: str) -> None:
        with self._errors(f"pull the image {image!r}"):
            self.client(timeout=3600.0).images.pull(*_name_and_tag(image))

    # containers

    def create(self, request: Mapping[str, Any]) -> str:
        """Make a container; its id. `request` is what the SDK's ``containers.create`` takes."""
        with self._errors(f"make the container {request.get('name')!r}"):
            return str(self.client().containers.create(**request).id)

    def put(self, container: str, archive: bytes) -> None:
        """Unpack a tar at ``/`` of a container."""
        with self._errors("put the job's credentials into its container"):
            if not self.client().api.put_archive(container, "/", archive):
                raise EngineError("the Docker engine refused the job's credentials")

    def start(self, container: str) -> None:
        with self._errors("start the container"):
            self.client().api.start(container)

    def inspect(self, container: str, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
        """All that the engine says of a container. Raises `NoSuchContainerError`."""
        with self._errors("look at the container"):
            return dict(self.client(timeout).api.inspect_container(container))

    def remove(self, container: str, timeout: float = REMOVE_TIMEOUT) -> None:
        """End and remove a container; one that is gone, or going, is no error."""
        with self._errors("remove the container"):
            try:
                self.client(timeout).api.remove_container(container, v=True, force=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409:  # its removal is in progress
                    raise

    def labelled(self) -> list[tuple[str, str, str]]:
        """Id, owner and job of every container that any docker launcher has started on this engine, but for kept ones."""
        with self._errors("list its containers"):
            found = self.client(PATIENT_TIMEOUT).api.containers(all=True, filters={"label": f"{LABEL}=docker"})
        ours = [c for c in found if not any(name.startswith(f"/{KEPT}") for name in c["Names"] or ())]
        return [(c["Id"], c["Labels"].get(OWNER_LABEL, ""), c["Labels"].get(JOB_LABEL, "")) for c in ours]

    def using_name(self, name: str) -> dict[str, Any] | None:
        """The container that has the name already, None when that is free."""
        try:
            return self.inspect(name, PATIENT_TIMEOUT)
        except NoSuchContainerError:
            return None

    # what the watcher asks

    def survey(self, handles: Sequence[RemoteHandle]) -> Mapping[RemoteHandle, EngineView]:
        self._answers = False
        with self._errors("list its containers"):
            client = self.client(QUICK_TIMEOUT)
            found = client.api.containers(all=True, filters={"label": f"{OWNER_LABEL}={self._owner}"})
        self._answers = True
        states = {c["Id"]: c["State"] for c in found}
        views = {}
        for handle in handles:
            state = states.get(handle.engine_id)
            if state in _ENDED:
                try:
                    views[handle] = ended_view(self.inspect(handle.engine_id, QUICK_TIMEOUT)["State"])
                except NoSuchContainerError:
                    continue
            elif state is not None:
                views[handle] = EngineView(EngineState.PENDING if state == "created" else EngineState.RUNNING)
        return views

    def cancel(self, handle: RemoteHandle) -> None:
        self._signal(handle, "SIGTERM")

    def kill(self, handle: RemoteHandle) -> None:
        self._signal(handle, "SIGKILL")

    def _signal(self, handle: RemoteHandle, name: str) -> None:
        with self._errors(f"send {name} to the container"):
            try:
                self.client(QUICK_TIMEOUT).api.kill(handle.engine_id, signal=name)
            except APIError as error:
                if error.status_code not in (404, 409):  # gone, or not running any more: `survey` will tell
                    raise

    def last_output(self, handle: RemoteHandle) -> bytes:
        if not self._answers:
            return b""
        with self._errors("read the container's log"):
            client = self.client(QUICK_TIMEOUT)
            return bytes(client.api.logs(handle.engine_id, stdout=True, stderr=True, tail=KEPT_LINES))

    def keep(self, handle: RemoteHandle, path: str) -> str:
        """Rename the container, so that neither `release` nor another launcher removes it."""
        name = f"{KEPT}{handle.job_id.lower()}-{handle.engine_id[:12]}"
        with self._errors("rename the container"):
            self.client(REMOVE_TIMEOUT).api.rename(handle.engine_id, name)
        self._kept.add(handle.engine_id)
        return f"they are kept in its container: docker cp {name}:{path} PLACE, then docker rm {name}"

    def release(self, handle: RemoteHandle) -> None:
        if handle.engine_id in self._kept:
            self._kept.discard(handle.engine_id)
            return
        if not self._answers:  # nobody who waits for the job's end is to wait for that too
            self.remove_later(handle.engine_id)
            return
        try:
            self.remove(handle.engine_id)
        except EngineError as error:
            log.warning("job %s: its container %s is removed later: %s", handle.job_id, handle.engine_id[:12], error)
            self.remove_later(handle.engine_id)


def ended_view(state: Mapping[str, Any]) -> EngineView:
    """How a container that runs no more ended; `state` is the ``State`` of its description."""
    code = int(state.get("ExitCode", 0))
    if state.get("Status") in ("dead", "removing") or state.get("Dead"):
        reason = f"its container is {state.get('Status', 'dead')}"
        return EngineView(EngineState.ENDED, outcome=Outcome(JobReturnCode.ABORTED, reason, code or None), by_engine=True)
    if state.get("OOMKilled"):
        reason = "its container ran out of memory"
        return EngineView(EngineState.ENDED, outcome=Outcome(JobReturnCode.EXECUTION_ERROR, reason, code), by_engine=True)
    reason = how_it_ended("its container", code)
    if code in set(Refusal):
        reason = REASONS[Refusal(code)]
    if state.get("Error"):
        reason = f"{reason}: {state['Error']}" if reason else str(state["Error"])
    return EngineView(EngineState.ENDED, outcome=Outcome(JobReturnCode.from_exit_code(code), reason, code))


def _close_sockets(error: BaseException) -> None:
    """Close the sockets of the calls that failed.

    The SDK leaves that of a connection that was refused in a local variable: it would stay open for as long as anybody, a log
    record say, keeps the error.
    """
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or any(one is known for known in found):
            continue
        found.append(one)
        for frame, _ in traceback.walk_tb(one.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, socket.socket):
                    value.close()
        waiting += [one.__cause__, one.__context__, *(part for part in one.args if isinstance(part, BaseException))]


def explain(error: Exception) -> str:
    """The engine's own words."""
    if isinstance(error, APIError) and error.explanation:
        text = error.explanation
        return (text.decode(errors="replace") if isinstance(text, bytes) else str(text)).strip()
    return str(error) or type(error).__name__


def _name_and_tag(image: str) -> tuple[str, str | None]:
    """For the SDK, which pulls all tags of an image that is named without one."""
    if "@" in image:
        return image, None
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")
